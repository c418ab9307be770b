//! The contract in Rust, generated from `wit/`: the types, the host and the lifecycle once, and each decision's exports.
//!
//! A component is the union of the parts it exports: the lifecycle and one decision make up one of the three worlds.
#![allow(unsafe_code, reason = "the canonical ABI's glue is generated")]
#![allow(unreachable_pub, reason = "generated")]
#![allow(clippy::too_many_lines, reason = "generated")]

pub mod shared {
    //! The types, and what a policy may ask of the host.
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package sluice:sdk; world shared { import sluice:policy/types@0.1.0; import sluice:policy/host@0.1.0; }",
        world: "sluice:sdk/shared",
        generate_all,
        generate_unused_types: true,
        additional_derives: [PartialEq, Default],
    });
}

pub mod lifecycle {
    //! What every policy exports.
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package sluice:sdk; world lifecycle { export sluice:policy/lifecycle@0.1.0; }",
        world: "sluice:sdk/lifecycle",
        with: {
            "sluice:policy/types@0.1.0": crate::bindings::shared::sluice::policy::types,
            "sluice:policy/lifecycle@0.1.0": generate,
        },
        generate_unused_types: true,
        additional_derives: [PartialEq, Default],
        pub_export_macro: true,
    });
}

pub mod batching {
    //! The batching decision.
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package sluice:sdk; world batching { export sluice:policy/batching-policy@0.1.0; }",
        world: "sluice:sdk/batching",
        with: {
            "sluice:policy/types@0.1.0": crate::bindings::shared::sluice::policy::types,
            "sluice:policy/batching-policy@0.1.0": generate,
        },
        generate_unused_types: true,
        additional_derives: [PartialEq, Default],
        pub_export_macro: true,
    });
}

pub mod routing {
    //! The routing decision.
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package sluice:sdk; world routing { export sluice:policy/routing-policy@0.1.0; }",
        world: "sluice:sdk/routing",
        with: {
            "sluice:policy/types@0.1.0": crate::bindings::shared::sluice::policy::types,
            "sluice:policy/routing-policy@0.1.0": generate,
        },
        generate_unused_types: true,
        additional_derives: [PartialEq, Default],
        additional_derives_ignore: ["route"],
        additional_type_attributes: { "sluice:policy/routing-policy@0.1.0/route": [#[derive(PartialEq)]] },
        pub_export_macro: true,
    });
}

pub mod admission {
    //! The two admission decisions.
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "package sluice:sdk; world admission { export sluice:policy/admission-policy@0.1.0; }",
        world: "sluice:sdk/admission",
        with: {
            "sluice:policy/types@0.1.0": crate::bindings::shared::sluice::policy::types,
            "sluice:policy/admission-policy@0.1.0": generate,
        },
        generate_unused_types: true,
        additional_derives: [PartialEq, Default],
        additional_derives_ignore: ["verdict", "next-flow"],
        additional_type_attributes: {
            "sluice:policy/admission-policy@0.1.0/verdict": [#[derive(PartialEq)]],
            "sluice:policy/admission-policy@0.1.0/next-flow": [#[derive(PartialEq)]],
        },
        pub_export_macro: true,
    });
}
