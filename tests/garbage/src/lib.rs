//! A plugin whose replies are no documents: for tests.
//!
//! What no author can do through the `Plugin` trait: its root module is made
//! by hand. The manifest is good; every other operation answers something
//! else that cannot be read.

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RErr, ROk, RResult, RStr, RString};
use divvy_plugin::__abi::{
    __call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult,
};
use divvy_plugin::v1::{Instance, PluginV1, PluginV1_Ref, Reply, root_module};
use divvy_plugin::{
    Discovery, Edits, Manifest, OpenRequest, Plugin, PluginError, PrepareRequest, ReleaseRequest,
};

/// Only its `open` is used, to have an instance.
struct Nothing;

#[rustfmt::skip]
impl Plugin for Nothing {
    fn manifest() -> Manifest { unreachable!() }
    fn open(_: &OpenRequest) -> Result<Self, PluginError> { Ok(Self) }
    fn discover(&self) -> Result<Discovery, PluginError> { unreachable!() }
    fn prepare(&self, _: &PrepareRequest) -> Result<Edits, PluginError> { unreachable!() }
    fn release(&self, _: &ReleaseRequest) -> Result<(), PluginError> { unreachable!() }
}

const MANIFEST: &str = r#"{"name": "garbage", "version": "0", "summary": "rubbish", "slots": [{
    "name": "garbage.units", "summary": "none", "unit": "unit", "quantum": "1", "class": "unit",
    "draws": [{"capacity": "units", "per_unit": "1"}], "shape": "single", "level": "advisory"}]}"#;

extern "C" fn manifest() -> Reply {
    ROk(MANIFEST.into())
}

extern "C" fn open(request: RStr<'_>) -> RResult<Instance, RString> {
    root_module::<Nothing>().open()(request)
}

macro_rules! answers {
    ($($op:ident = $reply:expr;)*) => {$(
        extern "C" fn $op(_: &Instance, _: RStr<'_>) -> Reply { $reply }
    )*};
}

answers! {
    discover = ROk("this is no JSON".into());
    watch = ROk("".into());
    prepare = ROk("[1, 2, 3]".into());
    started = ROk("{\"a\": 1} trailing".into());
    release = RErr("an error that is no document".into());
    restore = ROk("\"\u{0}\"".into());
    sample = ROk("[".repeat(1 << 20).into());
}

extern "C" fn module() -> RootModuleResult {
    __call_root_module_loader(|| {
        PluginV1 {
            manifest,
            open,
            discover,
            watch,
            prepare,
            started,
            release,
            restore,
            sample,
        }
        .leak_into_prefix()
    })
}

/// What `export_plugin!` would export.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static _1as_0lib_1header_0root_bmodule_bloader: LibHeader =
    // SAFETY: `module` returns the module of exactly this type.
    unsafe { LibHeader::from_constructor::<PluginV1_Ref>(module, CheckTypeLayout::Yes) };
