
"use strict";
// Sorting: a click on a head, once more for the other way.
document.querySelectorAll("table.kernels").forEach(function (table) {
  var body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach(function (head, column) {
    head.addEventListener("click", function () {
      var number = head.classList.contains("number");
      var was = head.getAttribute("aria-sort");
      var down = was ? was === "ascending" : number;
      var rows = Array.from(body.rows).map(function (row) {
        var end = 0;
        var cell = Array.from(row.cells).find(function (c) { end += c.colSpan; return end > column; });
        var absent = number ? cell.colSpan > 1 : false;
        return { row: row, absent: absent, key: number ? Number(cell.dataset.key) : cell.dataset.key };
      });
      rows.sort(function (a, b) {
        if (a.absent !== b.absent) return a.absent ? 1 : -1;
        var order = number ? a.key - b.key : String(a.key).localeCompare(String(b.key), "en", { numeric: true });
        return down ? -order : order;
      });
      rows.forEach(function (r) { body.appendChild(r.row); });
      table.querySelectorAll("thead th").forEach(function (h) { h.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
});
// Tips at once, and by touch. Without this the browser shows its own after a while.
var tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.appendChild(tip);
document.querySelectorAll("[title]").forEach(function (e) {
  e.dataset.tip = e.getAttribute("title");
  e.removeAttribute("title");
});
document.querySelectorAll("svg title").forEach(function (e) {
  e.parentNode.dataset.tip = e.textContent;
  e.parentNode.setAttribute("aria-label", e.textContent);
  e.remove();
});
function show(event) {
  var e = event.target.closest ? event.target.closest("[data-tip]") : null;
  if (!e) { tip.hidden = true; return; }
  tip.textContent = e.dataset.tip;
  tip.hidden = false;
  var w = tip.offsetWidth, h = tip.offsetHeight;
  var x = Math.max(8, Math.min(event.clientX + 14, window.innerWidth - w - 8));
  var y = event.clientY + 16 + h > window.innerHeight ? Math.max(8, event.clientY - h - 12) : event.clientY + 16;
  tip.style.left = x + "px";
  tip.style.top = y + "px";
}
document.addEventListener("pointermove", show);
document.addEventListener("pointerdown", show);
document.addEventListener("scroll", function () { tip.hidden = true; }, true);
