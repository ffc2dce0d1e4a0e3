//! Chat templates that try to take all time or memory. One test in a process of its own, because it looks at the process's
//! highest memory use.

use std::time::{Duration, Instant};

use serde_json::json;
use tilewright_runtime::text::{ChatInput, ChatTemplate};

/// Highest resident memory of this process in KiB, where the system says.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find(|l| l.starts_with("VmHWM"))?.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn bombs_are_stopped_in_time_and_memory() {
    let double = "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(N) %}BODY{% endfor %}";
    let loops = |n: &str, body: &str| double.replace('N', n).replace("BODY", body);
    let long = "word ".repeat(10_000);
    let bombs: Vec<(&str, String)> = vec![
        ("doubling", loops("40", "{% set ns.s = ns.s ~ ns.s %}")),
        ("doubling with +", loops("40", "{% set ns.s = ns.s + ns.s %}{{ ns.s }}")),
        ("doubling inside brackets", loops("40", "{% set ns.s = [ns.s ~ ns.s][0] %}")),
        ("straight line", format!("{{% set a = 'aaaaaaaa' %}}{}", "{% set a = a ~ a %}".repeat(60))),
        ("macro", "{% macro m(a, n) %}{% if n %}{{ m(a ~ a, n - 1) }}{% endif %}{% endmacro %}{{ m('aaaaaaaa', 60) }}".into()),
        ("macro default", "{% macro m(a, b=a ~ a) %}{{ m(b) }}{% endmacro %}{{ m('aaaaaaaa') }}".into()),
        ("endless macro", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into()),
        ("capture", format!("{{% set a = 'aaaaaaaa' %}}{}", "{% set a %}{{ a }}{{ a }}{% endset %}".repeat(60))),
        ("lists", loops("40", "{% set ns.s = [ns.s, ns.s] %}{{ ns.s }}")),
        ("shared lists printed", format!("{}{{{{ ns.s }}}}", loops("40", "{% set ns.s = [ns.s, ns.s] %}"))),
        ("shared lists as json", format!("{}{{{{ ns.s|tojson }}}}", loops("40", "{% set ns.s = [ns.s, ns.s] %}"))),
        ("shared lists compared", "{% set ns = namespace(a=1, b=1) %}{% for i in range(40) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}".into()),
        ("shared dicts", loops("40", "{% set ns.s = {'a': ns.s, 'b': ns.s} %}")),
        ("list sum", loops("60", "{% set ns.s = [ns.s] if ns.s is string else ns.s + ns.s %}")),
        ("repeat", "{{ 'a' * 100000000 }}".into()),
        ("repeat twice", "{{ ('aaaaaaaa' * 60000) * 60000 }}".into()),
        ("repeat in a loop", loops("100000", "{% set ns.s = 'aaaaaaaa' * 60000 %}")),
        ("repeat a list", "{{ [1] * 100000000 }}".into()),
        ("replace", loops("40", "{% set ns.s = ns.s|replace('a', 'aaaaaaaa') %}")),
        ("replace method", loops("40", "{% set ns.s = ns.s.replace('', ns.s) %}")),
        ("join", loops("40", "{% set ns.s = [ns.s, ns.s, ns.s]|join(ns.s) %}")),
        ("join method", loops("40", "{% set ns.s = ns.s.join([ns.s, ns.s, ns.s]) %}")),
        ("loops", "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}".into()),
        ("output", loops("100000", "{{ ns.s }}{% for i in range(1000) %}{{ ns.s }}{% endfor %}")),
        ("plain text in a capture", format!("{{% set a %}}{{% for i in range(100000) %}}{long}{{% endfor %}}{{% endset %}}")),
        ("short text in a capture", "{% set a %}{% for i in range(100000) %}0123456789012345678901234567890123456789{# #}0123456789012345678901234567890123456789{% endfor %}{% endset %}".into()),
        ("blank text in a capture", format!("{{% set a %}}{{% for i in range(100000) %}}{}{{% endfor %}}{{% endset %}}", " ".repeat(190))),
        ("namespace in itself", "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".into()),
        ("two namespaces", "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a == b }}{{ a|tojson }}".into()),
        ("deep list", loops("100000", "{% set ns.s = [ns.s] %}")),
        ("deep dict", loops("100000", "{% set ns.s = dict(a=ns.s) %}")),
        ("deep namespace", "{% set h = namespace(c=1) %}{% for i in range(100000) %}{% set n = namespace() %}{% set n.p = h.c %}{% set h.c = n %}{% endfor %}".into()),
        ("deep namespace argument", loops("100000", "{% set ns.s = namespace(p=ns.s) %}")),
        ("chain of macros", "{% set h = namespace(c=1) %}{% for i in range(100000) %}{% set p = h.c %}{% macro m() %}{{ p }}{% endmacro %}{% set h.c = m %}{% endfor %}".into()),
        ("iterables in iterables", loops("100000", "{% set ns.s = ns.s|items %}")),
        ("width", "{{ '%1000000000d'|format(1) }}".into()),
        ("width of a method", "{{ '{:>1000000000}'.format(1) }}".into()),
        ("fields", loops("30", "{% set ns.s = '{0}{0}{0}{0}'.format(ns.s) %}")),
        ("indent", "{{ 'a\nb'|indent(1000000000) }}".into()),
        ("json indent", "{{ [[[1]]]|tojson(indent=1000000000) }}".into()),
        ("batch", "{{ [1]|batch(1000000000, 'x') }}".into()),
        ("characters", loops("100000", "{% set ns.s = ('a' * 60000)|list %}")),
        ("split", loops("100000", "{% set ns.s = ('a,' * 30000).split(',') %}")),
        ("strip", "{% set a = 'aaaaaaab' * 60000 %}{% set b = 'cdefghab' * 60000 %}{{ a.strip(b) }}".into()),
        ("compare", "{% set a = 'aaaaaaaa' * 60000 %}{% for i in range(100000) %}{% if a == a %}{% endif %}{% endfor %}".into()),
        ("search", "{% set a = 'aaaaaaaa' * 60000 %}{% for i in range(100000) %}{% if 'b' in a %}{% endif %}{% endfor %}".into()),
        ("index", "{% set a = 'aaaaaaaa' * 60000 %}{% for i in range(100000) %}{% set x = a[-1] %}{% endfor %}".into()),
        ("slice", "{% set a = 'aaaaaaaa' * 60000 %}{% for i in range(100000) %}{% set x = a[1:] %}{% endfor %}".into()),
        ("loop over text", "{% set a = 'aaaaaaaa' * 60000 %}{% for i in range(100000) %}{% for c in a %}{% break %}{% endfor %}{% endfor %}".into()),
        ("length", "{% set a = 'aaaaaaaa' * 60000 %}{% for i in range(100000) %}{% set x = a|length %}{% endfor %}".into()),
        ("upper", "{% set a = 'aaaaaaaa' * 60000 %}{% for i in range(100000) %}{% set x = a|upper %}{% endfor %}".into()),
        ("filter block", format!("{}x{}", "{% filter upper %}".repeat(50), "{% endfilter %}".repeat(50))),
        ("long chain", format!("{{% set a = 'a' * 60000 %}}{{{{ {} }}}}", vec!["a"; 500].join(" ~ "))),
        ("recursive loop", "{% for x in ['a'] recursive %}{{ loop([x ~ x]) }}{% endfor %}".into()),
        ("power", "{{ 9 ** 9 ** 9 ** 9 }}".into()),
        ("with", format!("{{% set a = 'aaaaaaaa' %}}{}{}", "{% with a = a ~ a %}".repeat(60), "{% endwith %}".repeat(60))),
        ("nested parentheses", format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000))),
        ("nested ifs", format!("{}{}", "{% if true %}".repeat(10_000), "{% endif %}".repeat(10_000))),
        ("nested unary", format!("{{{{ {}1 }}}}", "-".repeat(100_000))),
        ("nested not", format!("{{{{ {}1 }}}}", "not ".repeat(50_000))),
        ("many ands", format!("{{{{ 1{} }}}}", " and 1".repeat(30_000))),
        ("many pluses", format!("{{{{ 1{} }}}}", " + 1".repeat(30_000))),
        ("many ternaries", format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(15_000))),
        ("many attributes", format!("{{{{ a{} }}}}", ".a".repeat(100_000))),
        ("many subscripts", format!("{{{{ a{} }}}}", "[0]".repeat(60_000))),
        ("many calls", format!("{{{{ a{} }}}}", "()".repeat(100_000))),
        ("many filters", format!("{{{{ a{} }}}}", "|e".repeat(100_000))),
        ("many tests", format!("{{{{ a{} }}}}", " is none".repeat(30_000))),
        ("many comparisons", format!("{{{{ a{} }}}}", " < 1".repeat(30_000))),
        ("many strings", format!("{{{{ {} }}}}", "'a' ".repeat(60_000))),
        ("many elements", format!("{{% set a = [{}] %}}", "1,".repeat(100_000))),
        ("many elifs", format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(20_000))),
        ("many targets", format!("{{% for {}a{} in [] %}}{{% endfor %}}", "(".repeat(50_000), ")".repeat(50_000))),
        ("many ifs at the limit", format!("{}{}", "{% if true %}".repeat(140), "{% endif %}".repeat(140))),
        ("chains at the limit", format!("{{{{ 1{} }}}}{{{{ a{} }}}}", " and 1".repeat(250), "|e".repeat(60))),
        ("python", "{{ ''.__class__.__mro__[1].__subclasses__() }}".into()),
        ("range", "{% for i in range(1000) %}{% set x = range(100000)|list %}{% endfor %}".into()),
        ("sort", "{% for i in range(1000) %}{% set x = range(100000)|sort %}{% endfor %}".into()),
        ("map of maps", "{{ range(100000)|map('string')|map('upper')|map('list')|list }}".into()),
    ];
    let input = ChatInput { messages: json!([{"role": "user", "content": "Hi"}]), ..Default::default() };
    let _ = ChatTemplate::new("{{ messages }}").unwrap().render(&input, None).unwrap();
    let mut peak = peak_kib();
    let before = peak;
    for (name, template) in &bombs {
        let start = Instant::now();
        let result = ChatTemplate::new(template).and_then(|t| t.render(&input, None));
        let time = start.elapsed();
        let now = peak_kib();
        println!(
            "{name:26} {:>8.2?} {:>7} KiB more  {}",
            time,
            now.zip(peak).map_or(0, |(n, p)| n - p),
            match &result {
                Ok(r) => format!("{} bytes", r.text.len()),
                Err(e) => e.to_string().chars().take(90).collect(),
            }
        );
        peak = now;
        // Generous: a machine under load must not fail this. What is bounded is seconds against hours.
        assert!(time < Duration::from_secs(5), "{name}: {time:?}");
    }
    if let Some((after, before)) = peak.zip(before) {
        assert!(after - before < 64 << 10, "{} KiB more than before", after - before);
    }
}
