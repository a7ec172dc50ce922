package origin

import (
	"path/filepath"
	"strings"
)

// maxValue is the longest value of a fact, in bytes.
const maxValue = 4096

// Finder finds out about callers. It keeps what it has parsed of passwd,
// crontabs and configurations, and is safe for concurrent use.
type Finder struct {
	root  string // before every path of a file; "" but in tests
	users users
	crons crontabs
	fpm   fpmConfigs
}

// NewFinder returns a Finder for this host.
func NewFinder() *Finder { return newFinder("") }

func newFinder(root string) *Finder {
	return &Finder{
		root:  root,
		users: users{passwd: root + "/etc/passwd", subuid: root + "/etc/subuid"},
		crons: crontabs{root: root},
	}
}

// Find returns what can be known of a caller. It never fails: what cannot be
// read is not known. Of a caller that has ended only the uid and the user are
// told, with kind Other and no proof.
func (f *Finder) Find(p *Peer, c Claims) Origin {
	users := f.users.current()
	plain := Origin{UID: users.owner(p.UID), Kind: Other}
	plain.User = users.name(plain.UID)
	if !p.known() {
		return plain
	}
	found := call{finder: f, users: users, claims: c, origin: plain}
	found.readChain(p.PID)
	defer closeChain(found.chain)
	if len(found.chain) == 0 {
		return plain
	}
	found.describe()
	// Asked last: until here the pid has been this caller's all the time.
	if !p.known() {
		return plain
	}
	found.clean()
	return found.origin
}

// Owner returns whose uid that is: itself, or the user to whom it belongs as a
// subordinate (subuid(5)), as in a container of his.
func (f *Finder) Owner(uid uint32) uint32 { return f.users.current().owner(uid) }

// call is one caller while it is described.
type call struct {
	finder *Finder
	users  *userTable
	claims Claims
	chain  []*process // [0] is the caller
	own    int        // chain[:own] run wholly as the caller: what they show is claimed
	by     service    // what chain[at] is; noService if there is no such ancestor
	at     int        // 0 if there is none
	near   int        // index of the program that called, the shell of popen(3) not counted; 0 if none
	shells bool       // there are such shells between

	origin Origin
}

func (c *call) describe() {
	for c.own < len(c.chain) && c.chain[c.own].uids.all(c.isCaller) {
		c.own++
	}
	c.findNear()

	cgroup := c.chain[0].cgroup()
	byCgroup := serviceOfCgroup(cgroup)
	kind, proof := c.by, c.best(System)
	switch {
	case byCgroup != noService && c.by == noService:
		kind, proof = byCgroup, Kernel
	case byCgroup == c.by:
		proof = Kernel
	}
	c.origin.KindProof = proof

	switch kind {
	case cronService:
		c.origin.Kind = Cron
		c.origin.Script = c.script()
		if c.at > 0 {
			c.origin.Crontab = c.crontab(c.at)
		}
	case atService:
		c.origin.Kind = At
		c.origin.Script = c.script()
	case fpmService:
		c.origin.Kind = PHPFPM
		c.origin.Script = c.webScript()
		if c.at > 0 {
			c.origin.Site = c.pool(c.at)
		}
	case webService, cgiService:
		c.origin.Kind = c.webKind(c.at)
		c.origin.Script = c.webScript()
		c.origin.Site = c.host()
	default:
		c.describeProgram(cgroup)
	}
}

// isCaller reports whether a uid is the caller's or one of his subordinate ones.
func (c *call) isCaller(uid uint32) bool {
	return uid == c.origin.UID || c.users.owner(uid) == c.origin.UID
}

// best lowers a proof that rests on processes of root where the caller is root
// himself, who could have forged them.
func (c *call) best(p Proof) Proof {
	if c.origin.UID == 0 {
		return Claimed
	}
	return p
}

// readChain reads the chain up to the nearest ancestor that is a daemon of root
// which starts programs for others, or else to its end.
func (c *call) readChain(pid int) {
	daemon, ok := c.users.lookup("daemon")
	if !ok {
		daemon = 0
	}
	c.chain = readChain(pid, func(ancestor *process) bool {
		c.by = serviceOf(c.finder.root, daemon, ancestor)
		return c.by != noService
	})
	if c.by != noService {
		c.at = len(c.chain) - 1
	}
}

// findNear finds the program that called: the nearest own process above the
// caller that is not just a shell running one command.
func (c *call) findNear() {
	for i := 1; i < c.own; i++ {
		p := c.chain[i]
		if p.language() == langShell {
			if _, inline := scriptOf(langShell, p.cmdline()); inline {
				c.shells = true
				continue
			}
		}
		c.near = i
		return
	}
}

// language tells the interpreter by the executable, or by argv[0] where that may
// not be read.
func (p *process) language() language {
	if exe := p.exe(); exe != "" {
		return languageOf(exe)
	}
	return languageOf(title(p.cmdline()))
}

// describeProgram describes a caller below no known daemon: by his own programs,
// which he can name as he likes.
func (c *call) describeProgram(cgroup string) {
	o := &c.origin
	o.Kind, o.KindProof = Other, Claimed
	o.Script = c.script()
	lang, program := noLanguage, ""
	if c.near > 0 {
		lang, program = c.chain[c.near].language(), filepath.Base(c.chain[c.near].exe())
	}
	uid, inSession := sessionUID(cgroup)
	inSession = inSession && c.isCaller(uid)
	switch {
	case lang == langPHPCGI:
		o.Kind, o.Script, o.Site = PHPCGI, c.webScript(), c.host()
	case c.claims.Env["GATEWAY_INTERFACE"] != "":
		o.Kind, o.Script, o.Site = CGI, c.webScript(), c.host()
	case lang == langPHP:
		o.Kind = PHPCLI
	case lang == langShell, program == "sshd", program == "sshd-session",
		c.near == 0 && (c.shells || inSession): // a login shell became its only command
		o.Kind = Shell
		if inSession {
			o.KindProof = Kernel
		}
	}
}

// script returns the script that the nearest program was started with.
func (c *call) script() Fact {
	if c.near == 0 {
		return Fact{}
	}
	p := c.chain[c.near]
	script, _ := scriptOf(p.language(), p.cmdline())
	if script == "" {
		return Fact{}
	}
	if !filepath.IsAbs(script) {
		if dir := p.cwd(); dir != "" {
			script = filepath.Join(dir, script)
		}
	}
	return Fact{Value: filepath.Clean(script), Proof: Claimed}
}

// clean makes the values fit to store: bounded, valid UTF-8, no zero bytes.
func (c *call) clean() {
	for _, f := range []*Fact{&c.origin.Script, &c.origin.Crontab, &c.origin.Site} {
		v := f.Value
		if len(v) > maxValue {
			v = v[:maxValue]
		}
		v = strings.ReplaceAll(strings.ToValidUTF8(v, "\uFFFD"), "\x00", "\uFFFD")
		if v == "" {
			*f = Fact{}
			continue
		}
		f.Value = v
	}
}
