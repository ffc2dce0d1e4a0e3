//! `strftime_now`.

/// The date of a second since 1970 in UTC, in the directives that templates use; others are left as they are.
pub(super) fn strftime(format: &str, now: u64) -> String {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let leap = |y: u64| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
    let days = (now / 86_400).min(3_000_000);
    // Gregorian years repeat every 400, which are 146097 days.
    let (mut year, mut day) = (1970 + days / 146_097 * 400, days % 146_097);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let of_year = day + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (weekday, hour, minute, second) = (DAYS[(days % 7) as usize], now / 3600 % 24, now / 60 % 60, now % 60);
    let half = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let two = |n: u64| format!("{n:02}");
        let Some(d) = chars.next() else {
            out.push('%');
            break;
        };
        out.push_str(&match d {
            'Y' => year.to_string(),
            'y' => two(year % 100),
            'm' => two(month as u64 + 1),
            'd' => two(day + 1),
            'e' => format!("{:2}", day + 1),
            'B' => MONTHS[month].to_owned(),
            'b' | 'h' => MONTHS[month][..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' => two(hour),
            'I' => two(half),
            'M' => two(minute),
            'S' => two(second),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'j' => format!("{of_year:03}"),
            'F' => format!("{year}-{:02}-{:02}", month + 1, day + 1),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        });
    }
    out
}
