//! From a Hugging Face folder: `tokenizer.json` as it is, ids and template from the files beside it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::{TokenizerError, TokenizerImport, end_tokens};

const MAX_JSON_BYTES: u64 = 256 << 20;
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// Reads `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja` and `generation_config.json` of a folder. Only the
/// first must exist.
pub fn from_hf_folder(folder: &Path) -> Result<TokenizerImport, TokenizerError> {
    let json = read(folder, "tokenizer.json", MAX_JSON_BYTES)?.ok_or_else(|| {
        file(
            folder,
            "tokenizer.json",
            "is missing; export one with `AutoTokenizer.from_pretrained(...).save_pretrained(...)`",
        )
    })?;
    let doc: Value = parse(folder, "tokenizer.json", &json)?;
    if !doc.get("model").is_some_and(Value::is_object) {
        return Err(file(
            folder,
            "tokenizer.json",
            "has no object \"model\"; it is not a tokenizer of Hugging Face tokenizers",
        ));
    }
    let side = |name: &str| -> Result<Value, TokenizerError> {
        read(folder, name, MAX_JSON_BYTES)?.map_or(Ok(Value::Null), |text| parse(folder, name, &text))
    };
    let config = side("tokenizer_config.json")?;
    let generation = side("generation_config.json")?;
    let mut warnings = Vec::new();

    let added: Vec<(u32, &str)> = doc
        .get("added_tokens")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|t| Some((id32(t.get("id")?)?, t.get("content")?.as_str()?)))
        .collect();
    let special = |text: &str| added.iter().find(|(_, t)| *t == text).map(|(id, _)| *id);
    let any = |text: &str| special(text).or_else(|| doc.get("model")?.get("vocab")?.get(text).and_then(id32));
    // A token is named by its text, or by an object that holds it.
    let named = |key: &str| {
        let v = config.get(key)?;
        any(v.as_str().or_else(|| v.get("content")?.as_str())?)
    };

    let bos = named("bos_token").or_else(|| generation.get("bos_token_id").and_then(id32));
    let mut first = vec![named("eos_token")];
    match generation.get("eos_token_id") {
        Some(Value::Array(ids)) => first.extend(ids.iter().map(id32)),
        Some(id) => first.push(id32(id)),
        None => {}
    }
    let eos = end_tokens(&first, special);
    if eos.is_empty() {
        warnings.push("neither tokenizer_config.json nor generation_config.json names an end token".into());
    }
    let flag = |key: &str| config.get(key).and_then(Value::as_bool);
    let add_bos = flag("add_bos_token").unwrap_or_else(|| bos.is_some_and(|id| starts_with(&doc, id))) && bos.is_some();
    let chat_template = match read(folder, "chat_template.jinja", MAX_TEMPLATE_BYTES)? {
        Some(t) => Some(t),
        None => template(config.get("chat_template")),
    };
    if chat_template.as_ref().is_some_and(|t| t.len() as u64 > MAX_TEMPLATE_BYTES) {
        return Err(file(folder, "tokenizer_config.json", "has a chat template of more than 1 MiB; shorten it"));
    }
    Ok(TokenizerImport {
        bos,
        eos,
        add_bos,
        add_eos: flag("add_eos_token").unwrap_or(false),
        chat_template,
        warnings,
        json,
    })
}

/// One template, or the one named `default` of a list of `{name, template}`.
fn template(v: Option<&Value>) -> Option<String> {
    match v? {
        Value::String(s) => Some(s.clone()),
        Value::Array(list) => {
            let is_default = |t: &&Value| t.get("name").and_then(Value::as_str) == Some("default");
            list.iter().find(is_default).or(list.first())?.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// Whether the document's post-processor puts this token before a single text.
fn starts_with(doc: &Value, bos: u32) -> bool {
    let one = |p: &Value| {
        let Some(name) = p.get("single").and_then(|s| s.get(0)?.get("SpecialToken")?.get("id")?.as_str()) else {
            return false;
        };
        p.get("special_tokens").and_then(|s| s.get(name)?.get("ids")?.get(0)).and_then(id32) == Some(bos)
    };
    let Some(p) = doc.get("post_processor") else { return false };
    one(p) || p.get("processors").and_then(Value::as_array).is_some_and(|list| list.iter().any(one))
}

fn id32(v: &Value) -> Option<u32> {
    v.as_u64().and_then(|n| u32::try_from(n).ok())
}

fn file(folder: &Path, name: &str, why: &str) -> TokenizerError {
    TokenizerError::File { path: folder.join(name), why: why.to_owned() }
}

fn parse(folder: &Path, name: &str, text: &str) -> Result<Value, TokenizerError> {
    serde_json::from_str(text).map_err(|e| file(folder, name, &format!("is not valid JSON ({e}); fetch it again")))
}

/// The text of a file, nothing if there is none; more than `limit` bytes is an error.
fn read(folder: &Path, name: &str, limit: u64) -> Result<Option<String>, TokenizerError> {
    let f = match File::open(folder.join(name)) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(file(folder, name, &format!("cannot be opened ({e})"))),
    };
    let mut text = String::new();
    f.take(limit + 1).read_to_string(&mut text).map_err(|e| file(folder, name, &format!("cannot be read ({e})")))?;
    if text.len() as u64 > limit {
        return Err(file(folder, name, &format!("is larger than {limit} bytes; it is not what its name says")));
    }
    Ok(Some(text))
}
