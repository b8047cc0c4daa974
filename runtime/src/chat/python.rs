//! What templates written for Python's Jinja2 expect: methods of strings and dicts, `tojson` in the style of
//! `json.dumps`, `raise_exception`. What they make is paid for before it is made.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Lists and objects inside each other.
const DEPTH: usize = 128;

pub(super) fn install(environment: &mut Environment) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| {
        if value.kind() == ValueKind::Iterable && value.len().is_none() {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "a list that is not made yet cannot be printed",
            ));
        }
        charge(state, value, 0)?;
        minijinja::escape_formatter(out, state, value)
    });
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", raise_exception);
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Pays for printing a value. A short list can print as a long text: it may hold one long string many times.
fn charge(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(too_deep());
    }
    state.consume_fuel(1 + value.as_str().map_or(0, str::len) as u64 / 64)?;
    match value.kind() {
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            charge(state, &key, depth + 1)?;
            charge(state, &value.get_item(&key)?, depth + 1)
        }),
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.try_for_each(|item| charge(state, &item, depth + 1))
        }
        _ => Ok(()),
    }
}

/// A list that can be walked twice.
fn made(state: &State, list: &Value) -> Result<Value, Error> {
    let paid = |item| state.consume_fuel(1).map(|()| item);
    Ok(Value::from(list.try_iter()?.map(paid).collect::<Result<Vec<Value>, Error>>()?))
}

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, "too many lists in each other")
}

/// A method of Python's, after its worst result has been paid for: the engine charges for results when they are there.
fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let length = value.as_str().map_or(0, str::len);
    let cost = match name {
        "format" => return Err(Error::new(ErrorKind::UnknownMethod, "str.format is not supported")),
        "split" | "splitlines" => length / 2, // a list entry for every other byte
        _ => length / 64,
    };
    state.consume_fuel(cost as u64)?;
    match (name, arguments) {
        ("join", [list]) => {
            let list = made(state, list)?;
            charge(state, &list, 0)?;
            unknown_method_callback(state, value, name, &[list])
        }
        _ => unknown_method_callback(state, value, name, arguments),
    }
}

/// `json.dumps(value, ensure_ascii=False)`, with its `indent`. Other options are accepted and change nothing.
fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    for name in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(name)?;
    }
    options.assert_all_used()?;
    let mut json = Json { state, indent: indent.map(|n| n.min(16)), text: String::new() };
    json.value(value, 0)?;
    Ok(Value::from_safe_string(json.text))
}

/// JSON on its way into a text.
struct Json<'a, 't, 'e> {
    state: &'a State<'t, 'e>,
    indent: Option<usize>,
    text: String,
}

impl Json<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(too_deep());
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None | ValueKind::Undefined => self.text.push_str("null"),
            ValueKind::Number if value.is_integer() => self.text.push_str(&value.to_string()),
            ValueKind::Number => self.text.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Map => self.map(value, depth)?,
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            other => return Err(Error::new(ErrorKind::BadSerialization, format!("tojson: {other}"))),
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.state.consume_fuel(text.len() as u64 / 8)?; // an escape has up to six letters
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                c if c < ' ' => write!(self.text, "\\u{:04x}", u32::from(c)).unwrap_or_default(),
                c => self.text.push(c),
            }
        }
        self.text.push('"');
        Ok(())
    }

    fn list(&mut self, list: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('[');
        let mut empty = true;
        for item in list.try_iter()? {
            self.separate(&mut empty, depth);
            self.value(&item, depth + 1)?;
        }
        self.close(']', empty, depth);
        Ok(())
    }

    fn map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('{');
        let mut empty = true;
        for key in map.try_iter()? {
            self.separate(&mut empty, depth);
            match key.as_str() {
                Some(text) => self.string(text)?,
                None => self.string(&key.to_string())?,
            }
            self.text.push_str(": ");
            self.value(&map.get_item(&key)?, depth + 1)?;
        }
        self.close('}', empty, depth);
        Ok(())
    }

    fn separate(&mut self, first: &mut bool, depth: usize) {
        match (std::mem::take(first), self.indent) {
            (true, None) => {}
            (false, None) => self.text.push_str(", "),
            (true, Some(_)) => self.new_line(depth + 1),
            (false, Some(_)) => {
                self.text.push(',');
                self.new_line(depth + 1);
            }
        }
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) {
        if !empty && self.indent.is_some() {
            self.new_line(depth);
        }
        self.text.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        let spaces = self.indent.unwrap_or(0) * depth;
        self.text.push('\n');
        self.text.extend(std::iter::repeat_n(' ', spaces));
    }
}

/// A float as Python writes it: 1.0, 0.0001, 1e-05, 1e+16.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let scientific = format!("{x:e}"); // the shortest digits that read back as x, as Python's
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 => format!("{x:?}"),
        exponent if exponent < 0 => format!("{digits}e-{:02}", -exponent),
        exponent => format!("{digits}e+{exponent:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn floats_are_pythons() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (21.5, "21.5"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "Infinity"),
        ];
        for (x, expected) in cases {
            assert_eq!(float(x), expected);
        }
    }
}
