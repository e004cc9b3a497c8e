//! What is the matter with devices. (Mender API: device monitor.)
//!
//! | who asks | where |
//! |---|---|
//! | devices | [`device`] |
//! | users | [`management`] |
//! | other services | [`internal`] |

pub mod device;
pub mod internal;
pub mod management;
