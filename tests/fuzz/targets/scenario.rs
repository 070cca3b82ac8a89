//! Any text as a scenario: it is refused, or every step is answered, and no
//! device ever holds more than it has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let Ok(answer) = divvy::scenario::run(text) else {
        return;
    };
    let answer = serde_json::to_value(answer).expect("an answer is a document");
    let scenario: Value = serde_json::from_str(text).expect("it was read");
    let steps = answer["steps"].as_array().expect("steps");
    assert_eq!(
        steps.len(),
        scenario["steps"].as_array().map_or(0, Vec::len),
        "every step is answered"
    );
    let nanos = |value: &Value| -> u128 {
        let amount: divvy::model::Amount = value
            .as_str()
            .and_then(|t| t.parse().ok())
            .expect("an amount");
        amount.nanos()
    };
    for device in scenario["devices"].as_array().into_iter().flatten() {
        for step in steps {
            for (slot, used) in step["usage"].as_object().expect("usage") {
                let used = used.get(device["id"].as_str().unwrap_or_default());
                let has = &device["capacity"][slot];
                if let Some(used) = used {
                    assert!(nanos(used) <= nanos(has), "{slot}: {used} of {has}");
                }
            }
        }
    }
});
