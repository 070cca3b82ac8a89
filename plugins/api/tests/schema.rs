//! The published JSON Schema of the contract's documents is the one that the
//! types make. After a deliberate change: `DIVVY_BLESS=1 cargo test -p
//! divvy-plugin --test schema`.
#![cfg(feature = "schema")]

use divvy_plugin::{
    Discovery, Edits, Manifest, OpenRequest, PluginError, PrepareRequest, ReleaseRequest,
    RestoreRequest, Samples, StartedRequest, WatchReply, WatchRequest,
};
use schemars::SchemaGenerator;

const PATH: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/schema/plugin-v1.json"
);

fn schema() -> String {
    let mut generator = SchemaGenerator::default();
    macro_rules! add {
        ($($document:ty),*) => { $(generator.subschema_for::<$document>();)* };
    }
    add!(
        Manifest,
        OpenRequest,
        Discovery,
        WatchRequest,
        WatchReply,
        PrepareRequest,
        Edits,
        StartedRequest,
        ReleaseRequest,
        RestoreRequest,
        Samples,
        PluginError
    );
    let definitions = generator.take_definitions(true);
    let document = serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Documents of the Divvy plugin contract, generation 1",
        "$defs": definitions,
    });
    serde_json::to_string_pretty(&document).expect("a schema is JSON") + "\n"
}

#[test]
fn the_published_schema_is_the_types_schema() {
    let made = schema();
    if std::env::var_os("DIVVY_BLESS").is_some() {
        std::fs::write(PATH, &made).expect("docs/schema can be written");
    }
    let published = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        published == made,
        "docs/schema/plugin-v1.json is out of date; DIVVY_BLESS=1 cargo test -p divvy-plugin --test schema"
    );
}
