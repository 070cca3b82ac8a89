//! What crosses the boundary: pointers, texts, lists, panics.
//!
//! SAFETY of everything here: NVML's contract. A pointer that a caller hands over is null,
//! or points to what the function's documentation says, in the number that the caller
//! says, and stays so for the call. Nothing is kept.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nvml_wrapper_sys::bindings::*;

/// What a call answers: an error is the number that the caller gets.
pub(crate) type Answer<T = ()> = Result<T, nvmlReturn_t>;

pub(crate) const UNINITIALIZED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_UNINITIALIZED;
pub(crate) const INVALID_ARGUMENT: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
pub(crate) const NOT_SUPPORTED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
pub(crate) const NO_PERMISSION: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NO_PERMISSION;
pub(crate) const NOT_FOUND: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
pub(crate) const INSUFFICIENT_SIZE: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
pub(crate) const DRIVER_NOT_LOADED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED;
pub(crate) const TIMEOUT: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_TIMEOUT;
pub(crate) const FUNCTION_NOT_FOUND: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND;
pub(crate) const GPU_IS_LOST: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST;
pub(crate) const VERSION_MISMATCH: nvmlReturn_t =
    nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH;
pub(crate) const ARGUMENT_VERSION_MISMATCH: nvmlReturn_t =
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
pub(crate) const DEPRECATED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_DEPRECATED;
pub(crate) const IN_USE: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_IN_USE;
pub(crate) const INSUFFICIENT_RESOURCES: nvmlReturn_t =
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_RESOURCES;
pub(crate) const UNKNOWN: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_UNKNOWN;

/// Runs a call: no panic leaves it.
pub(crate) fn caught(call: impl FnOnce() -> Answer) -> nvmlReturn_t {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => nvmlReturn_enum_NVML_SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => UNKNOWN,
    }
}

/// NVML's functions: `KIND NAME(ARGUMENTS) { BODY }`, where the body is an [`Answer`].
/// - `system`: its first argument is how the body calls the call itself.
/// - `handle`: as `system`, but the body is to ask for faults, as it finds out which GPU is
///   meant.
/// - `about`: its first argument is a handle, and for the body what that is of.
macro_rules! exports {
    ($($kind:ident $name:ident $arguments:tt $body:block)*) => {
        $(export! { $kind $name $arguments $body })*
    };
}

macro_rules! export {
    (system $name:ident($call:ident $(, $arg:ident: $type:ty)*) $body:block) => {
        export! { handle $name($call $(, $arg: $type)*) { $call.fault(None)?; $body } }
    };
    (handle $name:ident($call:ident $(, $arg:ident: $type:ty)*) $body:block) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> nvmlReturn_t {
            // SAFETY: NVML's contract (`abi`).
            $(let $arg = unsafe { $crate::abi::Argument::take($arg) };)*
            $crate::state::answer(stringify!($name), |$call| $body)
        }
        agrees!($name);
    };
    (about $name:ident($who:ident: $handle:ty $(, $arg:ident: $type:ty)*) $body:block) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($who: $handle $(, $arg: $type)*) -> nvmlReturn_t {
            // SAFETY: NVML's contract (`abi`).
            $(let $arg = unsafe { $crate::abi::Argument::take($arg) };)*
            $crate::state::answer(stringify!($name), |call| {
                let $who = call.about($who)?;
                $body
            })
        }
        agrees!($name);
    };
}

/// Compiles only if the function's type is the one in the vendor's header.
macro_rules! agrees {
    ($name:ident) => {
        const _: fn(&mut NvmlLib) = |lib| lib.$name = Ok($name);
    };
}

/// What a caller hands over.
pub(crate) trait Argument {
    /// As it is used here.
    type Taken;

    /// # Safety
    /// NVML's contract.
    unsafe fn take(self) -> Self::Taken;
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Argument for $type {
            type Taken = Self;

            unsafe fn take(self) -> Self {
                self
            }
        }
    )*};
}

plain!(c_uint, c_int, c_ulonglong);

impl<T> Argument for *mut T {
    type Taken = Out<T>;

    unsafe fn take(self) -> Out<T> {
        Out(self)
    }
}

impl<T> Argument for *const T {
    type Taken = In<T>;

    unsafe fn take(self) -> In<T> {
        In(self)
    }
}

/// Where an answer goes. Null is `NVML_ERROR_INVALID_ARGUMENT`.
#[derive(Clone, Copy)]
pub(crate) struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    /// The caller's pointer, for handles: nothing is there.
    pub(crate) fn pointer(self) -> *mut T {
        self.0
    }

    /// Is there a place for the answer? For calls that change something first.
    pub(crate) fn present(self) -> Answer {
        match self.0.is_null() {
            true => Err(INVALID_ARGUMENT),
            false => Ok(()),
        }
    }

    /// Writes the answer.
    pub(crate) fn put(self, value: T) -> Answer {
        self.fill(&[value])
    }

    /// Reads what the caller wrote: a version, a capacity.
    pub(crate) fn get(self) -> Answer<T> {
        if self.0.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract. It may be packed less strictly than we would.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The one `index` places on.
    pub(crate) fn nth(self, index: usize) -> Self {
        Self(self.0.wrapping_add(index))
    }

    /// As another type that begins like this one.
    pub(crate) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// Writes as many as there are; the caller said that there is room.
    pub(crate) fn fill(self, values: &[T]) -> Answer {
        if self.0.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        for (index, value) in values.iter().enumerate() {
            // SAFETY: NVML's contract.
            unsafe { self.0.add(index).write_unaligned(*value) };
        }
        Ok(())
    }
}

impl Out<c_char> {
    /// Writes a text, if `length` bytes are enough for it and its NUL.
    pub(crate) fn text(self, length: c_uint, text: &str) -> Answer {
        let bytes = characters(text);
        if bytes.len() > size(length) {
            return Err(INSUFFICIENT_SIZE);
        }
        self.fill(&bytes)
    }
}

/// What a caller wrote.
#[derive(Clone, Copy)]
pub(crate) struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// Reads it.
    pub(crate) fn get(self) -> Answer<T> {
        Out(self.0.cast_mut()).get()
    }
}

impl In<c_char> {
    /// Reads a text.
    pub(crate) fn text(self) -> Answer<String> {
        if self.0.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: NVML's contract: it ends in NUL.
        let text = unsafe { CStr::from_ptr(self.0) };
        Ok(text.to_string_lossy().into_owned())
    }
}

/// Answers with a list, as NVML does: `count` is how many there is room for, and then how
/// many there are.
pub(crate) fn list<T: Copy>(count: Out<c_uint>, items: Out<T>, values: &[T]) -> Answer {
    let room = size(count.get()?);
    count.put(number(values.len()))?;
    match values.is_empty() {
        true => Ok(()),
        false if values.len() > room => Err(INSUFFICIENT_SIZE),
        false => items.fill(values),
    }
}

/// A text in a struct's field of N bytes, cut where it is too long.
pub(crate) fn field<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    let bytes = characters(text);
    for (to, from) in field.iter_mut().take(N - 1).zip(bytes) {
        *to = from;
    }
    field
}

/// A text's bytes, with its NUL.
fn characters(text: &str) -> Vec<c_char> {
    let bytes = text.bytes().chain([0]);
    bytes.map(|byte| c_char::from_ne_bytes([byte])).collect()
}

/// A versioned struct's version: its size and number.
pub(crate) fn version<T>(number: c_uint) -> c_uint {
    self::number(size_of::<T>()) | number << 24
}

/// The caller's struct is to be of this version.
pub(crate) fn check<T>(version: c_uint, number: c_uint) -> Answer {
    match version == self::version::<T>(number) {
        true => Ok(()),
        false => Err(ARGUMENT_VERSION_MISMATCH),
    }
}

/// As NVML counts.
pub(crate) fn number(size: usize) -> c_uint {
    c_uint::try_from(size).unwrap_or(c_uint::MAX)
}

/// As Rust counts.
pub(crate) fn size(number: c_uint) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A UUID, if it is written as text.
pub(crate) fn uuid_text(uuid: &nvmlUUID_t) -> Option<String> {
    (uuid.type_ == nvmlUUIDType_t_NVML_UUID_TYPE_ASCII).then(|| {
        // SAFETY: the type says that this field of the union was written.
        let text = unsafe { uuid.value.str_ };
        let text = text.iter().take_while(|byte| **byte != 0);
        text.map(|byte| char::from(byte.to_ne_bytes()[0])).collect()
    })
}

/// A UUID, if it is written as bytes.
pub(crate) fn uuid_bytes(uuid: &nvmlUUID_t) -> Option<[u8; 16]> {
    match uuid.type_ {
        // SAFETY: as above.
        nvmlUUIDType_t_NVML_UUID_TYPE_BINARY => Some(unsafe { uuid.value.bytes }),
        _ => None,
    }
}

/// A pointer in a struct that the caller handed over.
pub(crate) fn inner<T>(pointer: *mut T) -> Out<T> {
    Out(pointer)
}
