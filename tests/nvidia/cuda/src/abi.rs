//! Functions as C calls them, and the proof that they have the types of the bindings.

use std::marker::PhantomData;

use cudarc::driver::sys::CUresult;

/// What an exported function answers: a number, which a fault makes any number.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Answer(pub(crate) u32);

/// A value of C's enum `E` from outside: any number.
#[repr(transparent)]
pub(crate) struct Of<E>(u32, PhantomData<E>);

impl<E> Of<E> {
    pub(crate) fn number(&self) -> u32 {
        self.0
    }
}

/// An exported function.
pub(crate) struct Export {
    pub(crate) name: &'static str,
    pub(crate) code: *const (),
}

// SAFETY: the address of a function, which all threads may call.
unsafe impl Sync for Export {}

/// Has the same representation as `T`, and takes its place in a function's type.
pub(crate) trait Stands<T> {}
impl<T> Stands<T> for T {}
impl<E> Stands<E> for Of<E> {}
impl Stands<CUresult> for Answer {}

/// Is a function of this library that stands for the bindings' function `F`.
pub(crate) trait Like<F> {}

macro_rules! like {
    ($($ours:ident $theirs:ident),*) => {
        impl<$($ours: Stands<$theirs>, $theirs),*> Like<unsafe fn($($theirs),*) -> CUresult>
            for unsafe extern "C" fn($($ours),*) -> Answer
        {
        }
    };
}
like!();
like!(A1 B1);
like!(A1 B1, A2 B2);
like!(A1 B1, A2 B2, A3 B3);
like!(A1 B1, A2 B2, A3 B3, A4 B4);
like!(A1 B1, A2 B2, A3 B3, A4 B4, A5 B5);
like!(A1 B1, A2 B2, A3 B3, A4 B4, A5 B5, A6 B6);
like!(A1 B1, A2 B2, A3 B3, A4 B4, A5 B5, A6 B6, A7 B7);
like!(A1 B1, A2 B2, A3 B3, A4 B4, A5 B5, A6 B6, A7 B7, A8 B8);
like!(A1 B1, A2 B2, A3 B3, A4 B4, A5 B5, A6 B6, A7 B7, A8 B8, A9 B9);
like!(A1 B1, A2 B2, A3 B3, A4 B4, A5 B5, A6 B6, A7 B7, A8 B8, A9 B9, A10 B10);
like!(A1 B1, A2 B2, A3 B3, A4 B4, A5 B5, A6 B6, A7 B7, A8 B8, A9 B9, A10 B10, A11 B11);

/// Compiles where the first stands for the second.
pub(crate) const fn like<O: Like<T> + Copy, T: Copy>(_: O, _: T) {}

/// Exports functions of the driver's API, and lists them as `EXPORTS`.
///
/// `[early]`: answers before `cuInit` too. `[older]`: the bindings have only later versions
/// of it. `on dev`: faults are those of this device, not of the current context's.
macro_rules! driver {
    ($(
        $(#[$meta:meta])*
        $([$($flag:ident)*])?
        fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(on $device:ident)? { $($body:tt)* }
    )*) => {
        $(
            $(#[$meta])*
            #[allow(non_snake_case)]
            #[unsafe(no_mangle)]
            pub(crate) unsafe extern "C" fn $name($($arg: $type),*) -> $crate::abi::Answer {
                const EARLY: bool = driver!(@early $($($flag)*)?);
                let device: &[core::ffi::c_int] = &[$($device)?];
                let device = device.first().copied();
                $crate::call::answer(stringify!($name), EARLY, device, move || {
                    // SAFETY: who calls a function of the driver's API gives it the pointers
                    // that its documentation asks for.
                    #[allow(unused_unsafe)]
                    unsafe { $($body)* }
                    #[allow(unreachable_code)]
                    Ok(())
                })
            }
            driver!(@check [$($($flag)*)?] $name $($arg)*);
        )*
        pub(crate) const EXPORTS: &[$crate::abi::Export] = &[$(
            $crate::abi::Export { name: stringify!($name), code: $name as *const () }
        ),*];
    };
    (@early) => { false };
    (@early early $($rest:ident)*) => { true };
    (@early $flag:ident $($rest:ident)*) => { driver!(@early $($rest)*) };
    (@check [older $($rest:ident)*] $($all:ident)*) => {};
    (@check [$($flag:ident)*] $name:ident $($arg:ident)*) => {
        const _: () = $crate::abi::like(
            $name as unsafe extern "C" fn($(driver!(@any $arg)),*) -> _,
            cudarc::driver::sys::$name as unsafe fn($(driver!(@any $arg)),*) -> _,
        );
    };
    (@any $arg:ident) => { _ };
}
