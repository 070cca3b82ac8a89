//! The OpenAPI document, made from the table of operations and the documents'
//! own types.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::{Created, Ended, Failed, OPERATIONS, Operation, Removed, StopRequest, Version};
use crate::agent::{AllocateRequest, Decision, Devices, Plugins, RunRequest, Samples, Workloads};
use crate::model::{Record, Request};
use crate::monitor::ExecRequest;

/// The document: OpenAPI 3.1, whose schemas are JSON Schema 2020-12.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let names = schemas(&mut generator);
    let mut paths = Map::new();
    for operation in &OPERATIONS {
        let path = paths
            .entry(operation.path)
            .or_insert_with(|| Value::Object(Map::new()));
        path[operation.method] = describe(operation, &names);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Divvy agent",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HTTP/1.1 with JSON on the agent's unix socket. Who asks is known by the socket's peer credentials; a workload of somebody else's is answered as one that does not exist, unless root or an admin asks.",
        },
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    })
}

/// Registers each document's type; its name and what refers to it.
fn schemas(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut names = Map::new();
    macro_rules! register {
        ($($document:ty),+) => {$(
            let schema = generator.subschema_for::<$document>();
            names.insert(<$document>::schema_name().into_owned(), schema.to_value());
        )+};
    }
    register!(
        AllocateRequest,
        Created,
        Decision,
        Devices,
        Ended,
        ExecRequest,
        Failed,
        Plugins,
        Record,
        Removed,
        Request,
        RunRequest,
        Samples,
        StopRequest,
        Version,
        Workloads
    );
    names
}

fn describe(operation: &Operation, names: &Map<String, Value>) -> Value {
    let media = |name: &str| match names.get(name) {
        Some(schema) => json!({ "application/json": { "schema": schema } }),
        None => json!({ name: {} }),
    };
    let mut parameters: Vec<Value> = operation
        .query
        .iter()
        .map(|(name, meaning)| {
            json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": "string" } })
        })
        .collect();
    if operation.path.contains("{name}") {
        parameters.push(json!({
            "name": "name", "in": "path", "required": true, "schema": { "type": "string" },
            "description": "The workload's name, its id, or the beginning of its id",
        }));
    }
    let good = match operation.id {
        "attach" | "exec" => "101",
        "run" | "allocate" => "201",
        _ => "200",
    };
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": {
            good: { "description": "Done", "content": media(operation.gives) },
            "default": { "description": "Not done; nothing was changed", "content": media("Failed") },
        },
    });
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(takes) = operation.takes {
        described["requestBody"] = json!({ "content": media(takes) });
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed document is the one that this code makes; `DIVVY_BLESS=1`
    /// writes it.
    #[test]
    fn the_published_document_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("DIVVY_BLESS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            published == text,
            "docs/openapi.json is old: DIVVY_BLESS=1 cargo test -p divvy openapi"
        );
    }

    /// Every type that an operation names is described, and every reference
    /// leads somewhere.
    #[test]
    fn every_reference_resolves() {
        let document = document();
        for operation in &OPERATIONS {
            for name in operation.takes.iter().chain([&operation.gives]) {
                let media = name.contains('/');
                assert!(
                    media || !document["components"]["schemas"][name].is_null(),
                    "{name}"
                );
            }
        }
        fn walk(value: &Value, whole: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        let at = to.strip_prefix('#').unwrap();
                        assert!(whole.pointer(at).is_some(), "{to}");
                    }
                    map.values().for_each(|v| walk(v, whole));
                }
                Value::Array(all) => all.iter().for_each(|v| walk(v, whole)),
                _ => {}
            }
        }
        walk(&document, &document);
    }
}
