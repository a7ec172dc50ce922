package origin

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/serverstatus"
)

// maxValue is the longest value of a fact, in bytes.
const maxValue = 4096

// Finder finds out about callers. It keeps what it has parsed of passwd,
// crontabs and configurations, and is safe for concurrent use.
type Finder struct {
	root   string // before every path of a file; "" but in tests
	users  users
	crons  crontabs
	fpm    fpmConfigs
	timers timers
	stuck  stuck
	local  addresses  // which of them are this host's
	diag   netlinks   // of NETLINK_SOCK_DIAG
	own    namespaces // the daemon's
	cgroup string     // in place of a caller's; "" but in tests, which may run in any

	listeners fpmListeners
	sapis     sapis
	apache    *serverstatus.Apache // nil if it is not to be asked
}

// Settings say where a Finder may ask the servers of this host.
type Settings struct {
	ApacheStatus string // URL of Apache's server-status; "" where it is not to be asked
	ApacheKey    string // path of the file with its password
}

// NewFinder returns a Finder for this host. An address of Apache's status that is not
// one of this host with a port counts as none (serverstatus.NewApache).
func NewFinder(s Settings) *Finder {
	f := newFinder("")
	if s.ApacheStatus != "" {
		f.apache, _ = serverstatus.NewApache(s.ApacheStatus, s.ApacheKey)
	}
	return f
}

func newFinder(root string) *Finder {
	return &Finder{
		root:   root,
		users:  users{passwd: root + "/etc/passwd", subuid: root + "/etc/subuid"},
		crons:  crontabs{root: root},
		timers: timers{root: root},
		own:    ownNamespaces(),
	}
}

// Find returns what can be known of a caller. It never fails: what cannot be
// read is not known. Of a caller that has ended, or whose processes let the kernel
// wait for half a second, only the uid and the user are told, with kind Unknown
// and no proof; so of an SMTP client (Client) whose socket no process has open, or
// several that are not one and its children.
func (f *Finder) Find(p *Peer, c Claims) Origin {
	users := f.users.current()
	plain := Origin{UID: users.owner(p.UID), Kind: Unknown}
	plain.User = users.name(plain.UID)
	if p.smtp {
		plain.Via = Fact{"smtp", Kernel}
	}
	if p.smtp && p.socket == 0 || !p.smtp && !p.known() {
		return plain
	}
	pid, socket := p.PID, p.socket // p may be closed before a look-up ends that takes too long
	found, ok := f.stuck.within(lookUpTime, plain.UID, func() (Origin, bool) {
		found := call{finder: f, users: users, claims: c, origin: plain}
		defer func() { closeChain(found.chain) }()
		if socket != 0 {
			found.readClient(socket)
		} else {
			found.readChain(pid)
		}
		if len(found.chain) == 0 {
			return plain, false
		}
		found.describe()
		found.clean()
		return found.origin, socket == 0 || found.client.stays()
	})
	// Asked last: until here the pid has been this caller's all the time.
	if !ok || !p.smtp && !p.known() {
		return plain
	}
	return found
}

// Owner returns whose uid that is: itself, or the user to whom it belongs as a
// subordinate (subuid(5)), as in a container of his.
func (f *Finder) Owner(uid uint32) uint32 { return f.users.current().owner(uid) }

// Login returns the login name and the full name of a user, or of the one to whom the uid
// belongs. Not known: passwd(5) has none.
func (f *Finder) Login(uid uint32) (login, fullName string, known bool) {
	users := f.users.current()
	owner := users.owner(uid)
	login, known = users.names[owner]
	return login, users.full[owner], known
}

// IsOne tells whether a uid is that of one of these login names. A name that is not
// there is nobody's.
func (f *Finder) IsOne(uid uint32, names []string) bool {
	users := f.users.current()
	return slices.ContainsFunc(names, func(name string) bool {
		of, known := users.uids[name]
		return known && of == uid
	})
}

// UserOf returns the user of a login name, by the name that Find gives him: the first
// that passwd(5) has for the uid. It is false where there is none.
func (f *Finder) UserOf(login string) (uid uint32, name string, known bool) {
	users := f.users.current()
	if uid, known = users.uids[login]; !known {
		return 0, "", false
	}
	return uid, users.name(uid), true
}

// call is one caller while it is described.
type call struct {
	finder  *Finder
	users   *userTable
	claims  Claims
	client  holder     // of an SMTP client: the caller
	chain   []*process // [0] is the caller; an SMTP client is [1] too
	awaited bool       // the client is a server's worker, and waited for the mail server before the other server was asked about it
	own     int        // chain[:own] run wholly as the caller: what they show is claimed
	by      service    // what chain[at] is; noService if there is no such ancestor
	at      int        // 0 if there is none
	near    int        // index of the program that called, the shell of popen(3) not counted; 0 if none
	shells  bool       // there are such shells between

	ofWorker bool // script, method and URI are those of what the server's worker runs now

	origin Origin
}

func (c *call) describe() {
	for c.own < len(c.chain) && c.chain[c.own].uids.all(c.isCaller) {
		c.own++
	}
	c.findNear()
	cgroup := c.finder.cgroup
	if cgroup == "" {
		cgroup = c.chain[0].cgroup()
	}
	c.describeIn(cgroup)
}

// describeIn describes a caller whose control group is known.
func (c *call) describeIn(cgroup string) {
	u := unitOf(cgroup)
	c.origin.Unit = c.unit(u)
	namespace := c.chain[0].namespaces().foreign(c.finder.own)
	c.origin.Container = c.container(cgroup, namespace)
	c.origin.Login = c.login()
	c.origin.Chain = c.processes()

	kind, proof, byCgroup := c.by, c.best(System), u.service()
	if namespace != "" && c.at > 0 && c.chain[c.at].namespaces().foreign(c.finder.own) != "" {
		// A daemon in the caller's container, whose root he may be. Its files are not
		// ours either.
		c.at, proof = 0, Claimed
	}
	switch {
	case byCgroup == c.by:
		proof = Kernel
	case c.by == noService:
		kind, proof = byCgroup, Kernel
	}
	c.origin.KindProof = proof

	switch kind {
	case cronService:
		c.origin.Kind = Cron
		c.origin.Script = c.jobScript()
		if c.at > 0 {
			c.origin.Crontab = c.crontab(c.at)
		}
	case anacronService:
		c.origin.Kind = Anacron
		c.origin.Script = c.jobScript()
		if c.at > 0 {
			c.origin.Crontab = c.anacronJob(c.at)
		}
	case atService:
		c.origin.Kind = At
		c.origin.Script = c.jobScript()
	case mailService:
		c.origin.Kind = Pipe
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
	case systemdService:
		c.describeUnit()
	default:
		uid, inSession := sessionUID(cgroup)
		c.describeProgram(kind == loginService || inSession && c.isCaller(uid))
		if u.ofUser() && strings.HasSuffix(u.below, ".service") && c.origin.Kind != PHPCGI {
			c.origin.Kind, c.origin.KindProof = Systemd, Claimed
		}
	}
	c.request(c.by, c.at)
	c.origin.Include = c.include()
	c.addEnvironment()
}

// describeUnit describes a caller in a service of the system that is no daemon
// known here. PHP's FastCGI server is one by itself, which only its own program
// shows.
func (c *call) describeUnit() {
	c.origin.Kind, c.origin.KindProof = Systemd, Kernel
	if c.near > 0 && c.chain[c.near].language() == langPHPCGI {
		c.origin.Kind, c.origin.KindProof = PHPCGI, Claimed
		c.origin.Script, c.origin.Site = c.webScript(), c.host()
		return
	}
	c.origin.Script = c.script()
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
	c.chain = readChain(pid, func(ancestor *process) bool {
		c.by = serviceOf(c.finder.root, c.users, ancestor)
		return c.by != noService
	})
	if c.by != noService {
		c.at = len(c.chain) - 1
	}
}

// processes returns the chain as it is told.
func (c *call) processes() []Process {
	chain := c.chain
	if c.isClient() {
		chain = chain[1:]
	}
	list := make([]Process, 0, min(len(chain), MaxChain))
	for _, p := range chain[:cap(list)] {
		program := p.exe()
		if program == "" {
			program = p.comm()
		}
		list = append(list, Process{PID: p.pid, UID: p.uids[0], EUID: p.uids[1], Program: program})
	}
	return list
}

// isClient reports whether the caller is an SMTP client.
func (c *call) isClient() bool { return c.client.process != nil }

// findNear finds the program that called: the nearest own process above the
// caller that is not just a shell running one command. An SMTP client is it itself,
// unless it is a program of the system, such as curl or msmtp, that another has called.
func (c *call) findNear() {
	for i := 1; i < c.own; i++ {
		p := c.chain[i]
		lang := p.language()
		if lang == langShell {
			if _, inline := scriptOf(langShell, p.cmdline()); inline {
				c.shells = true
				continue
			}
		}
		if lang == noLanguage && (runsOthers(p.exe()) || i == 1 && c.isClient() && c.ownProgram(p).Value == "") {
			continue
		}
		c.near = i
		return
	}
	if c.isClient() && c.own > 1 {
		c.near = 1
	}
}

// runsOthers knows programs that wait for one that they were told to run.
func runsOthers(exe string) bool {
	switch filepath.Base(exe) {
	case "timeout", "flock", "xargs", "find", "run-parts", "script", "setsid", "time", "unshare":
		return true
	}
	return false
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
// which he can name as he likes. loggedIn says that he is in a login session of
// his.
func (c *call) describeProgram(loggedIn bool) {
	o := &c.origin
	o.Kind, o.KindProof = Program, Claimed
	o.Script = c.script()
	lang, program := noLanguage, ""
	if c.near > 0 {
		lang, program = c.chain[c.near].language(), filepath.Base(c.chain[c.near].exe())
	}
	switch {
	case lang == langPHPCGI:
		o.Kind, o.Script, o.Site = PHPCGI, c.webScript(), c.host()
	case c.claims.Env["GATEWAY_INTERFACE"] != "":
		o.Kind, o.Script, o.Site = CGI, c.webScript(), c.host()
	case lang == langPHP:
		o.Kind = PHPCLI
	case lang == langShell, program == "sshd", program == "sshd-session",
		c.near == 0 && (c.shells || loggedIn): // a login shell became its only command
		o.Kind = Shell
		if loggedIn {
			o.KindProof = Kernel
		}
	case c.near == 0 && (len(c.chain) < 2 || c.chain[1].pid == 1): // what started it has ended
		o.Kind, o.KindProof = Unknown, 0
	}
}

// script returns the script that the nearest program was started with.
func (c *call) script() Fact {
	if c.near == 0 {
		// What started it has ended. PHP leaves its script open for its children.
		if path := c.chain[0].entryScript(nil); strings.HasSuffix(path, ".php") {
			return Fact{Value: path, Proof: Claimed}
		}
		return Fact{}
	}
	p := c.chain[c.near]
	if p.language() == noLanguage {
		return c.ownProgram(p)
	}
	return c.scriptOf(p)
}

// scriptOf returns the script that an interpreter was started with, or reads from
// its standard input.
func (c *call) scriptOf(p *process) Fact {
	return Fact{Value: c.resolve(p, p.scriptPath()), Proof: Claimed}
}

// scriptPath is the script of scriptOf as it was named, in the working directory.
func (p *process) scriptPath() string {
	lang := p.language()
	script, inline := scriptOf(lang, p.cmdline())
	if script == "" {
		if !inline && lang != noLanguage && lang != langPHPCGI {
			return p.input()
		}
		return ""
	}
	if module, ok := strings.CutPrefix(script, moduleFlag); ok {
		// Python looks into the working directory first; of a package's module only
		// the name is told.
		file := module + ".py"
		if strings.ContainsAny(module, "./") || !p.holds(file) {
			return script
		}
		script = file
	}
	if dir := p.cwd(); dir != "" && !filepath.IsAbs(script) {
		if climbs(script) {
			return dir + "/" + script
		}
		script = filepath.Join(dir, script) // no link is in the directory's path
	}
	return script
}

// input returns the path of the file that is standard input, "" if it is none or
// has no name any more.
func (p *process) input() string {
	path := p.readlink("fd/0")
	var st unix.Stat_t
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "/dev/") || unix.Fstatat(p.dir, "fd/0", &st, 0) != nil ||
		st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink == 0 {
		return ""
	}
	return path
}

// ownProgram is the script of a program that is none, but a file of the caller's
// own: what he has compiled or brought along, and not what a package installed.
func (c *call) ownProgram(p *process) Fact {
	var st unix.Stat_t
	if c.origin.UID == 0 || unix.Fstatat(p.dir, "exe", &st, 0) != nil || !c.isCaller(st.Uid) {
		return Fact{}
	}
	return Fact{Value: p.exe(), Proof: Claimed}
}

// clean makes the values fit to store.
func (c *call) clean() {
	for _, f := range c.origin.Facts() {
		f.Value = cleanText(f.Value)
		if f.Value == "" {
			*f = Fact{}
		}
	}
	for i := range c.origin.Chain {
		c.origin.Chain[i].Program = cleanText(c.origin.Chain[i].Program)
	}
}

// cleanText bounds a text and makes it valid UTF-8 without zero bytes.
func cleanText(s string) string {
	if len(s) > maxValue {
		s = s[:maxValue]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
