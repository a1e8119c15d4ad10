//! What commands print: a table or JSON.
use clap::ValueEnum;
use ctl::table::table;
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

/// What is printed once, when every machine has answered.
pub struct Rows {
    pub output: Output,
    pub headings: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
    pub json: Vec<Value>,
}

impl Rows {
    pub fn new(output: Output) -> Self {
        Self { output, headings: &[], rows: Vec::new(), json: Vec::new() }
    }

    pub fn add(&mut self, node: &str, headings: &'static [&'static str], names: &[&str], values: &[String]) {
        self.headings = headings;
        self.rows.push(std::iter::once(node.to_owned()).chain(values.iter().cloned()).collect());
        let mut object = json!({"node": node});
        for (name, value) in names.iter().zip(values) {
            object[*name] = json!(value);
        }
        self.json.push(object);
    }

    /// An object of its own shape; for a person `text`, now.
    pub fn say(&mut self, node: &str, text: &str, mut object: Value) {
        match self.output {
            Output::Table => println!("{node}: {text}"),
            Output::Json => {
                object["node"] = json!(node);
                self.json.push(object);
            }
        }
    }

    pub fn print(&self) {
        match self.output {
            Output::Json if !self.json.is_empty() => println!("{:#}", Value::Array(self.json.clone())),
            Output::Table if !self.rows.is_empty() => print!("{}", table(self.headings, &self.rows)),
            _ => {}
        }
    }
}
