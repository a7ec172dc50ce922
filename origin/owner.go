package origin

// Owner returns whose uid that is: itself, or the user to whom it belongs as a
// subordinate (subuid(5)), as in a container of his.
func (f *Finder) Owner(uid uint32) uint32 { return f.users.current().owner(uid) }
