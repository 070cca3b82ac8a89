//! Generation 1 of the binary interface: an `abi_stable` root module of a few
//! C functions that take and return JSON documents.
//!
//! **Frozen.** A newer host refuses an older plugin when a type of its root
//! module has changed, so nothing in this file may change: the documents
//! grow instead, and what documents cannot carry becomes a `v2` beside this.
//! Plugin authors never see this module; [`export_plugin!`](crate::export_plugin)
//! fills it in, and the plugin host reads it.

// abi_stable's derive makes a type named `PluginV1_Ref` and impls that rustc
// 1.95 warns about; both are its business.
#![allow(
    non_local_definitions,
    non_camel_case_types,
    missing_docs,
    unreachable_pub
)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::package_version_strings;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RErr, ROk, RResult, RStr, RString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{ErrorCode, PluginError};
use crate::plugin::Plugin;

/// A reply: a JSON document, or a [`PluginError`] as JSON.
pub type Reply = RResult<RString, RString>;

/// An opened plugin, as an opaque pointer to the author's type.
#[repr(transparent)]
#[derive(Debug, StableAbi)]
pub struct Instance(*const ());

// SAFETY: the pointer is a leaked `Box<P>` with `P: Plugin`, which requires
// `Send + Sync`, and only shared references are made from it.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

/// The root module. Every operation takes a JSON document and answers one
/// (`discover` and `sample` ignore theirs).
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginV1_Ref)))]
#[sabi(missing_field(panic))]
#[allow(missing_debug_implementations)] // function pointers only
pub struct PluginV1 {
    pub manifest: extern "C" fn() -> Reply,
    pub open: extern "C" fn(RStr<'_>) -> RResult<Instance, RString>,
    pub discover: extern "C" fn(&Instance, RStr<'_>) -> Reply,
    pub watch: extern "C" fn(&Instance, RStr<'_>) -> Reply,
    pub prepare: extern "C" fn(&Instance, RStr<'_>) -> Reply,
    pub started: extern "C" fn(&Instance, RStr<'_>) -> Reply,
    pub release: extern "C" fn(&Instance, RStr<'_>) -> Reply,
    pub restore: extern "C" fn(&Instance, RStr<'_>) -> Reply,
    #[sabi(last_prefix_field)]
    pub sample: extern "C" fn(&Instance, RStr<'_>) -> Reply,
}

impl RootModule for PluginV1_Ref {
    abi_stable::declare_root_module_statics! {PluginV1_Ref}
    const BASE_NAME: &'static str = "divvy_plugin";
    const NAME: &'static str = "divvy_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

/// The root module of plugin `P`.
#[must_use]
pub fn root_module<P: Plugin>() -> PluginV1_Ref {
    PluginV1 {
        manifest: manifest::<P>,
        open: open::<P>,
        discover: discover::<P>,
        watch: watch::<P>,
        prepare: prepare::<P>,
        started: started::<P>,
        release: release::<P>,
        restore: restore::<P>,
        sample: sample::<P>,
    }
    .leak_into_prefix()
}

extern "C" fn manifest<P: Plugin>() -> Reply {
    guarded(|| Ok(P::manifest()))
}

extern "C" fn open<P: Plugin>(request: RStr<'_>) -> RResult<Instance, RString> {
    let opened = caught(|| P::open(&parse(request)?));
    match opened {
        Ok(plugin) => ROk(Instance(
            Box::into_raw(Box::new(plugin)).cast_const().cast(),
        )),
        Err(error) => RErr(document(&error)),
    }
}

macro_rules! operations {
    ($($name:ident => |$plugin:ident, $request:ident| $call:expr;)*) => {$(
        extern "C" fn $name<P: Plugin>(instance: &Instance, $request: RStr<'_>) -> Reply {
            // SAFETY: an `Instance` is only made by `open` of the same root
            // module, so of the same `P`, and is never freed: plugins are not
            // unloaded, the host process ends instead.
            let $plugin: &P = unsafe { &*instance.0.cast::<P>() };
            guarded(|| $call)
        }
    )*};
}

operations! {
    discover => |plugin, _request| plugin.discover();
    watch => |plugin, request| plugin.watch(&parse(request)?);
    prepare => |plugin, request| plugin.prepare(&parse(request)?);
    started => |plugin, request| plugin.started(&parse(request)?);
    release => |plugin, request| plugin.release(&parse(request)?);
    restore => |plugin, request| plugin.restore(&parse(request)?);
    sample => |plugin, _request| plugin.sample();
}

fn parse<T: DeserializeOwned>(text: RStr<'_>) -> Result<T, PluginError> {
    serde_json::from_str(text.as_str()).map_err(|e| {
        PluginError::new(
            ErrorCode::Invalid,
            format!("the request cannot be read: {e}"),
        )
    })
}

/// Runs an author's method; what leaves is JSON, panic or not.
fn guarded<T: Serialize>(call: impl FnOnce() -> Result<T, PluginError>) -> Reply {
    let reply = caught(call).and_then(|value| {
        serde_json::to_string(&value).map_err(|e| {
            PluginError::new(
                ErrorCode::Driver,
                format!("the reply cannot be written: {e}"),
            )
        })
    });
    match reply {
        Ok(text) => ROk(text.into()),
        Err(error) => RErr(document(&error)),
    }
}

fn caught<T>(call: impl FnOnce() -> Result<T, PluginError>) -> Result<T, PluginError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        Err(PluginError::new(
            ErrorCode::Panicked,
            format!("the plugin panicked: {}", panic_text(panic.as_ref())),
        ))
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

fn document(error: &PluginError) -> RString {
    // Two strings: writing them as JSON cannot fail.
    serde_json::to_string(error).unwrap_or_default().into()
}

/// Makes this library a Divvy plugin: `divvy_plugin::export_plugin!(MyPlugin);`
/// once, at the top level of a `cdylib`, with `MyPlugin: Plugin`.
///
/// It exports the one symbol that the plugin host looks for. Every method is
/// wrapped so that a panic becomes an error reply instead of the end of the
/// process.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        const _: () = {
            extern "C" fn root_module() -> $crate::__abi::RootModuleResult {
                $crate::__abi::__call_root_module_loader($crate::v1::root_module::<$plugin>)
            }

            // The name is abi_stable's ROOT_MODULE_LOADER_NAME; the symbol is
            // what its own attribute would export, without asking the author
            // to depend on abi_stable. `plugins/api` has a test that they match.
            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals, missing_docs)]
            pub static _1as_0lib_1header_0root_bmodule_bloader: $crate::__abi::LibHeader =
                // SAFETY: `root_module` returns the module of exactly this type.
                unsafe {
                    $crate::__abi::LibHeader::from_constructor::<$crate::v1::PluginV1_Ref>(
                        root_module,
                        $crate::__abi::CheckTypeLayout::Yes,
                    )
                };
        };
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_exported_symbol_is_the_one_that_abi_stable_looks_for() {
        assert_eq!(
            crate::__abi::ROOT_MODULE_LOADER_NAME,
            "_1as_0lib_1header_0root_bmodule_bloader"
        );
    }
}
