//! Gives the shared library the name under which programs ask for it: without, some linkers note the path of the build.
//! `ffi/install` asks for one with the number of the ABI; what lies in `target` has none, so that it is found there.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=BONSAI_SONAME");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("macos" | "ios") => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libbonsai.dylib")
        }
        Ok("linux" | "android" | "freebsd") => {
            let name = std::env::var("BONSAI_SONAME").unwrap_or("libbonsai.so".into());
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{name}");
        }
        _ => {}
    }
}
