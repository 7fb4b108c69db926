//! Changes by `uSNChanged`: each domain controller numbers what it commits, and gives each entry the number of its last
//! change. For where DirSync cannot be had.
//!
//! The numbers are each controller's own: at another one, or at one that was restored, everything is compared. What was
//! deleted is found by a search of its own, by who may read Deleted Objects. Containers and groups come as with `dirsync`.

use super::domain::below;
use crate::directory::stream::Search;
use crate::directory::stream::controls;

/// What has a number above `usn`: entries whole, and then what is left of deleted ones. In the whole domain, because an entry
/// that left the base changed where it is now.
pub(super) fn searches(head: &str, usn: u64, filter: &str, attributes: &[String]) -> [Search; 2] {
    let since = usn.saturating_add(1);
    let key = crate::directory::key::KeyAttribute::ObjectGuid.name();
    [
        below(head, format!("(&(uSNChanged>={since}){filter})"), attributes.to_vec(), Vec::new()),
        below(
            head,
            format!("(&(isDeleted=TRUE)(uSNChanged>={since}))"),
            ["isDeleted", key].map(String::from).to_vec(),
            vec![controls::show_deleted()],
        ),
    ]
}
