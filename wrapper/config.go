package wrapper

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/sendmail"
)

// Config is what wrapper.conf(5) says.
type Config struct {
	RealSendmail   string            // path of the real sendmail
	Profile        *sendmail.Profile // grammar of its command line
	Socket         string            // of mailquotad
	Accept         bool              // on-unavailable: whether mail leaves while mailquotad is away
	MaxMessageSize int64             // bytes, 0: no bound
	HandOff        bool              // hand-off: whether mailquotad has accepted mail sent, and not this process
}

func defaults() Config {
	profile, err := sendmail.ProfileByName("postfix")
	if err != nil {
		panic(err) // a profile of this program is missing: no caller can bring this about
	}
	return Config{
		RealSendmail:   "/usr/sbin/sendmail.real",
		Profile:        profile,
		Socket:         "/run/mailquota/mailquotad.sock",
		Accept:         true,
		MaxMessageSize: 256 << 20,
	}
}

// LoadConfig reads the file. A missing file means the defaults. So does, for its
// own key only, a line that is wrong: each gives an error with file, line, key
// and what is allowed, and the configuration is good to use all the same,
// because a typing mistake must not stop the mail of a server.
func LoadConfig(path string) (Config, []error) {
	c := defaults()
	content, err := readFile(path)
	if err == unix.ENOENT {
		return c, nil
	}
	if err != nil {
		return c, []error{errors.New(path + ": " + err.Error())}
	}
	var wrong []error
	seen := map[string]bool{}
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		if err := c.set(line, seen); err != nil {
			wrong = append(wrong, errors.New(path+":"+strconv.Itoa(n)+": "+err.Error()))
		}
	}
	if c.HandOff && !c.Profile.HandsOver() {
		wrong = append(wrong, errors.New(path+`: hand-off = "mailquotad" is not possible with mta = `+strconv.Quote(c.Profile.Name)+", only with postfix, exim, exim-add-arguments and sendmail"))
		c.HandOff = false
	}
	return c, wrong
}

// set takes one line: `key = "text"`, `key = number`, a comment or nothing.
func (c *Config) set(line string, seen map[string]bool) error {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return nil
	}
	key, value, ok := strings.Cut(line, "=")
	key = strings.TrimSpace(key)
	if !ok {
		return errors.New(strconv.Quote(line) + `: write key = "text" or key = number`)
	}
	if seen[key] {
		return errors.New(key + " is given twice; the first one holds")
	}
	seen[key] = true
	value = strings.TrimSpace(value)
	if key == "max-message-size" {
		return c.setSize(value)
	}
	text, err := unquote(value)
	if err != nil {
		return errors.New(key + " = " + value + ": " + err.Error())
	}
	bad := func(allowed string) error {
		return errors.New(key + " = " + strconv.Quote(text) + ": must be " + allowed)
	}
	switch key {
	case "real-sendmail":
		if !strings.HasPrefix(text, "/") {
			return bad("an absolute path")
		}
		c.RealSendmail = text
	case "mta":
		p, err := sendmail.ProfileByName(text)
		if err != nil {
			return errors.New(key + ": " + err.Error())
		}
		c.Profile = p
	case "socket":
		// sun_path holds 107 bytes and a NUL (unix(7)).
		if !strings.HasPrefix(text, "/") || len(text) > 107 {
			return bad("an absolute path of at most 107 bytes")
		}
		c.Socket = text
	case "on-unavailable":
		if text != "accept" && text != "refuse" {
			return bad(`"accept" or "refuse"`)
		}
		c.Accept = text == "accept"
	case "hand-off":
		if text != "self" && text != "mailquotad" {
			return bad(`"self" or "mailquotad"`)
		}
		c.HandOff = text == "mailquotad"
	default:
		return errors.New("unknown key " + strconv.Quote(key) + ": there are real-sendmail, mta, socket, on-unavailable, hand-off and max-message-size")
	}
	return nil
}

func (c *Config) setSize(value string) error {
	value, _, _ = strings.Cut(value, "#")
	n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	if err != nil || n < 0 {
		return errors.New("max-message-size = " + value + ": must be a number of bytes, 0 for no bound")
	}
	c.MaxMessageSize = n
	return nil
}

// unquote reads a TOML string in double quotes, without escapes, and perhaps a
// comment behind it.
func unquote(value string) (string, error) {
	rest, ok := strings.CutPrefix(value, `"`)
	text, rest, closed := strings.Cut(rest, `"`)
	rest = strings.TrimSpace(rest)
	if !ok || !closed || strings.Contains(text, `\`) || rest != "" && rest[0] != '#' {
		return "", errors.New(`must be a text in double quotes, without \`)
	}
	return text, nil
}
