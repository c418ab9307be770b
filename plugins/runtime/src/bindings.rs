//! The contract as the host sees it, generated from `wit/`. A component exports the lifecycle and one decision; the
//! world here names them all, and only the parts of it are used.
#![allow(unsafe_code, reason = "the typed calls are generated, and checked against the component when it is loaded")]
#![allow(unreachable_pub, reason = "generated")]
#![allow(clippy::too_many_lines, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../../wit",
    inline: "
        package sluice:runtime;
        world everything {
            import sluice:policy/host@0.1.0;
            export sluice:policy/lifecycle@0.1.0;
            export sluice:policy/admission-policy@0.1.0;
            export sluice:policy/routing-policy@0.1.0;
            export sluice:policy/batching-policy@0.1.0;
        }
    ",
    world: "sluice:runtime/everything",
    ownership: Borrowing { duplicate_if_necessary: true },
});
