package origin

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
)

// pool names the pool of php-fpm below the master chain[at]. The worker's title
// lies in memory of the caller's uid; the master's title and the file that it
// names do not.
func (c *call) pool(at int) Fact {
	if at > c.own { // the worker is not the caller's: he came by sudo or su
		return Fact{}
	}
	claimed, ok := strings.CutPrefix(title(c.chain[at-1].cmdline()), fpmWorkerTitle)
	if !ok {
		claimed = ""
	}
	master := c.finder.fpm.master(fpmConfigOf(c.chain[at]))
	mine, unknown := master.ownedBy(c.origin.UID, c.users)
	isClaimed := func(p *fpmPool) bool { return p.name == claimed }
	switch {
	case len(mine) == 1 && len(unknown) == 0:
		return Fact{Value: mine[0].name, Proof: c.best(System)}
	case !master.known || slices.ContainsFunc(mine, isClaimed) || slices.ContainsFunc(unknown, isClaimed):
		return Fact{Value: claimed, Proof: Claimed}
	}
	return Fact{}
}

// webKind tells what runs below a web server, at being the index of its process
// of root, 0 if the chain is lost. Only programs of the caller's uid say so.
func (c *call) webKind(at int) Kind {
	for i := 1; i < c.own && i < max(at, 1); i++ {
		if c.chain[i].language() == langPHPCGI {
			return PHPCGI
		}
	}
	if at == 0 || at > c.own { // chain lost, or suexec between
		return CGI
	}
	worker := at - 1
	switch {
	case worker == 0, c.near == worker: // 0 is the worker itself, turned into sendmail
		return ModPHP
	case c.claims.Env["GATEWAY_INTERFACE"] != "":
		return CGI
	}
	// A CGI program is started as itself, one of mod_php's by a shell.
	if _, inline := inlineCommand(c.chain[worker-1].cmdline()); inline {
		return ModPHP
	}
	return CGI
}

// webScript names the script of a program below a web server or php-fpm: the one
// that the nearest interpreter was started with, or that PHP has open, or
// SCRIPT_FILENAME, or the file that mail() wrote into the header, which names no
// directory.
func (c *call) webScript() Fact {
	if f := c.script(); f.Value != "" {
		return f
	}
	if path := c.openScript(); path != "" {
		return Fact{Value: path, Proof: Claimed}
	}
	if path := c.claims.Env["SCRIPT_FILENAME"]; filepath.IsAbs(path) && !climbs(path) {
		return Fact{Value: filepath.Clean(path), Proof: Claimed}
	}
	base := scriptBase(c.claims.PHPScript)
	if base == "" {
		return Fact{}
	}
	// PHP makes the directory of the script the worker's. It is looked into as
	// the kernel shows it, never as the caller says: else he could ask for files
	// in directories that he may not enter.
	for _, i := range []int{c.near, 0} {
		p := c.chain[i]
		if dir := p.cwd(); dir != "" && p.holds(base) {
			return Fact{Value: filepath.Join(dir, base), Proof: Claimed}
		}
	}
	return Fact{Value: base, Proof: Claimed}
}

// openScript returns the script that PHP runs, in a worker of php-fpm or mod_php,
// or in php-cgi: what PHP keeps of its request, or the script that it has open. If
// it has gone, what the caller has inherited is looked at, which any program
// between can have changed.
func (c *call) openScript() string {
	var server, php *process
	switch worker := c.at - 1; {
	case c.near > 0 && c.chain[c.near].language() == langPHPCGI:
		php = c.chain[c.near]
		server = php
	case worker >= 0 && worker < c.own:
		server, php = c.chain[c.at], c.chain[worker]
	case c.at == 0:
		return c.chain[0].entryScript(nil)
	default:
		return ""
	}
	path := ""
	r, ok := c.finder.sapis.request(server, php)
	if ok {
		c.origin.Method, c.origin.URI = Fact{r.method, Claimed}, Fact{r.uri, Claimed}
	}
	if ok && !climbs(r.script) {
		path = filepath.Clean(r.script)
	} else {
		path = php.entryScript(server)
	}
	c.ofWorker = (ok || path != "") && server != php
	return path
}

// include returns the name of the file that called mail(), if PHP told it and it
// is not the script itself.
func (c *call) include() Fact {
	base := scriptBase(c.claims.PHPScript)
	if base == "" || base == filepath.Base(c.origin.Script.Value) {
		return Fact{}
	}
	return Fact{Value: base, Proof: Claimed}
}

// addEnvironment adds what the variables of CGI (RFC 3875, 4.1) in the environment
// of a web server's program say, where nothing better is known.
func (c *call) addEnvironment() {
	o, env := &c.origin, c.claims.Env
	switch o.Kind {
	case ModPHP, PHPCGI, CGI:
	default:
		return
	}
	if path := env["DOCUMENT_ROOT"]; filepath.IsAbs(path) && !climbs(path) {
		o.DocumentRoot = Fact{filepath.Clean(path), Claimed}
	}
	if o.URI.Value == "" {
		o.Method, o.URI = Fact{env["REQUEST_METHOD"], Claimed}, Fact{env["REQUEST_URI"], Claimed}
	}
	if o.Client.Value == "" {
		o.Client = Fact{address(env["REMOTE_ADDR"]), Claimed}
	}
}

// scriptBase returns the file's name of an X-PHP-Originating-Script field,
// "UID:NAME" or "UID:NAME(LINE) : eval()'d code" (php_mail.c), "" if it is none.
func scriptBase(field string) string {
	uid, name, ok := strings.Cut(strings.TrimSpace(field), ":")
	if _, valid := parseUID(uid); !ok || !valid {
		return ""
	}
	for {
		code, found := strings.CutSuffix(name, " : eval()'d code")
		open := strings.LastIndexByte(code, '(')
		if !found || open < 0 || !strings.HasSuffix(code, ")") {
			break
		}
		name = code[:open]
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || len(name) > 255 {
		return ""
	}
	return name
}

// host returns the virtual host that the environment names.
func (c *call) host() Fact {
	for _, name := range []string{"SERVER_NAME", "HTTP_HOST"} {
		if host := c.claims.Env[name]; host != "" {
			if h, _, err := net.SplitHostPort(host); err == nil {
				host = h
			}
			return Fact{Value: strings.ToLower(host), Proof: Claimed}
		}
	}
	return Fact{}
}
