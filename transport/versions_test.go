//go:build versions

package transport

// Of go test -tags versions ./transport: the protocol between queue manager and agents is
// Postfix's own, so each new version is to be tried.
func init() {
	releases = append(releases, release{"bullseye", "3.5.", true}, release{"trixie", "3.10.", true}, release{"sid", "", true})
}
