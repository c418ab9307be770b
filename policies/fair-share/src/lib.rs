//! Admission: virtual token counters, so that tenants share by weight.
