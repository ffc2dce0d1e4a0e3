use super::*;
use serde_json::json;

const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn input() -> ChatInput {
    ChatInput {
        messages: json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Hello "}, {"role": "user", "content": "Bye"}]),
        add_generation_prompt: true,
        bos_token: "<s>".into(),
        eos_token: "</s>".into(),
        now: Some(1_795_219_200),
        ..Default::default()
    }
}

fn render(template: &str, input: &ChatInput) -> Result<String, TextError> {
    ChatTemplate::new(template)?.render(input, None).map(|r| r.text)
}

#[test]
fn chatml() {
    assert_eq!(
        render(CHATML, &input()).unwrap(),
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n Hello <|im_end|>\n\
         <|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn what_templates_use() {
    for (template, text) in [
        ("{{ bos_token }}{{ messages|length }}", "<s>3"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "3"),
        ("{%- for m in messages[1:] -%}\n  {{ m.content | trim }},\n{%- endfor %}", "Hello,Bye,"),
        ("{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}", "uau"),
        ("{% if 'B' in messages[2].content and messages[-1].role is not none %}y{% endif %}", "y"),
        ("{{ messages[0].content.upper().split('I')[0] ~ '!' }}", "H!"),
        ("{{ messages | map(attribute='role') | join('/') }}", "user/assistant/user"),
        ("{{ (messages | selectattr('role', 'equalto', 'user') | list)[1]['content'] }}", "Bye"),
        ("{% macro m(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(2, b='y') }}", "[1x][2y]"),
        (
            "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
            "HiBye",
        ),
        ("{{ {'a': [1, none, true], 'é': '<\"'} | tojson }}", "{\"a\": [1, null, true], \"é\": \"<\\\"\"}"),
        ("{{ {'b': 1, 'a': {}} | tojson(indent=2) }}", "{\n  \"b\": 1,\n  \"a\": {}\n}"),
        ("{{ 'é' | tojson(ensure_ascii=true) }}{{ [1, 2] | tojson(separators=(',', ':')) }}", "\"\\u00e9\"[1,2]"),
        ("{{ strftime_now('%d %b %Y, %A %j') }}", "21 Nov 2026, Saturday 325"),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{{ 'a' * 3 }}{{ 2 * 3 + 1 }}{{ 7 // 2 }}{{ 7 % 4 }}{{ -2 + 5 }}{{ 2.5 * 2 }}", "aaa73335.0"),
        ("{% set a %}x{{ 1 }}{% endset %}{{ a ~ a }}", "x1x1"),
        ("{{ none is none }} {{ undefined_thing is defined }} {{ 3 is divisibleby(3) }}", "True False True"),
        ("{{ tools is defined }}{{ messages[9] is defined }}", "FalseFalse"),
        ("{{ 'a' 'b' ~ 'c' }}{{ 'yes' if 1 < 2 else 'no' }}", "abcyes"),
        ("{% raw %}{{ x }}{% endraw %}{# gone {{ #}", "{{ x }}"),
        (
            "{{ messages[0].get('tool_calls', 'none') }}{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}",
            "nonea1",
        ),
        ("{% for m in messages recursive %}{{ loop.length }}{% endfor %}", "333"),
        ("{{ 'a\nb' | indent(2) }}|{{ 'x{}y'.format(1) }}", "a\n  b|x1y"),
        ("{{ {'a': {'b': 1}}.a.b }}{% set x = [1] + [2] %}{{ x[-1] }}{{ x }}", "12[1, 2]"),
        ("{%- if not (1 == 2) and not 1 > 2 -%} ok {%- endif -%}", "ok"),
        ("{% macro m() %}<{{ caller(1) }}>{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}", "<1>"),
    ] {
        let got = render(template, &input());
        assert_eq!(got.as_deref().ok(), Some(text), "{template}: {got:?}");
    }
}

#[test]
fn long_text_between_tags_is_kept() {
    let long = "word ".repeat(40);
    assert_eq!(
        render(&format!("  {long}\n  {{%- if true %}} {long}{{% endif %}}"), &input()).unwrap(),
        format!("  {} {long}", long.trim_end())
    );
    assert_eq!(render(&format!("{{% if true -%}}  {long}{{% endif %}}"), &input()).unwrap(), long);
}

#[test]
fn a_template_may_refuse() {
    let e = render("{{ raise_exception('roles must alternate') }}", &input()).unwrap_err();
    assert!(matches!(&e, TextError::Refused(w) if w == "roles must alternate"), "{e}");
}

#[test]
fn broken_templates_are_errors() {
    for t in [
        "{{",
        "{% if %}",
        "{{ a b }}",
        "{% for x in %}",
        "{% endfor %}",
        "{{ 1 | nofilter }}",
        "{{ messages.nope.nope }}",
        "{{ 1 + 'a' }}",
        "{% set = 1 %}",
        "{{ \u{0} }}",
        "{{ 'a }}",
        "{% include 'x' %}",
    ] {
        assert!(render(t, &input()).is_err(), "{t}");
    }
    assert!(ChatTemplate::new(&"x".repeat(MAX_TEMPLATE + 1)).is_err());
}

#[test]
fn special_tokens_in_messages_are_marked() {
    let doc = json!({
        "added_tokens": [{"id": 1, "content": "<|im_end|>", "special": true}],
        "model": {"type": "BPE", "vocab": {"a": 0, "<|im_end|>": 1}, "merges": []},
    });
    let t = Tokenizer::from_json(doc.to_string().as_bytes()).unwrap();
    let mut i = input();
    i.messages = json!([{"role": "user", "content": "é<|im_end|>"}, {"role": "user", "content": "b"}]);
    let r = ChatTemplate::new("{% for m in messages %}{{ m.content | trim }}<|im_end|>{% endfor %}")
        .unwrap()
        .render(&i, Some(&t))
        .unwrap();
    assert_eq!(r.text, "é<|im_end|><|im_end|>b<|im_end|>");
    assert!(r.user_special.iter().eq(std::iter::once(&(2..12))));
    assert_eq!(t.encode_chat(&r).unwrap().iter().filter(|&&i| i == 1).count(), 2);
}

#[test]
fn input_is_bounded() {
    let mut deep = json!("x");
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let i = ChatInput { messages: deep, ..input() };
    assert!(matches!(render("{{ messages }}", &i), Err(TextError::Limit(_))));
}

#[test]
fn a_long_conversation_is_no_trouble() {
    let text = "word ".repeat(400);
    let messages: Vec<_> =
        (0..1000).map(|n| json!({"role": if n % 2 == 0 { "user" } else { "assistant" }, "content": text})).collect();
    let i = ChatInput { messages: messages.into(), ..input() };
    assert!(render(CHATML, &i).unwrap().len() > 2_000_000);
}

#[test]
fn mutated_templates_never_panic() {
    let base = "{%- set ns = namespace(a=1) %}{% for m in messages[1:] recursive %}{% if m['role'] not in ['a', \"b\"] and loop.first %}\
        {{- m.content | trim ~ 'é' * 2 }}{% elif {'a': [1]}.a is defined %}{% set ns.a = -1 %}{% endif %}{# c #}{% endfor %}{{ ns.a|tojson(indent=2) }}";
    let mut rng = crate::sampler::Rng::new(2);
    let mut rendered = 0;
    for _ in 0..4000 {
        let mut chars: Vec<char> = base.chars().collect();
        for _ in 0..1 + rng.next_u64() % 3 {
            let at = rng.next_u64() as usize % chars.len();
            match rng.next_u64() % 3 {
                0 => chars[at] = "{}%#[]()'\"|.,-+~*é \n=0:a".chars().nth(rng.next_u64() as usize % 24).unwrap_or('x'),
                1 => drop(chars.remove(at)),
                _ => chars.insert(at, chars[rng.next_u64() as usize % chars.len()]),
            }
        }
        rendered += usize::from(render(&chars.into_iter().collect::<String>(), &input()).is_ok());
    }
    assert!(rendered > 50, "{rendered}");
}
