package notify

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"
	"time"
	"unicode"
)

//go:embed templates/*.txt
var builtIn embed.FS

// Templates are the names of the texts.
var Templates = []string{"event.txt", "digest.txt", "customer.txt"}

// BuiltIn is the text of a template as it is delivered with the program.
func BuiltIn(name string) []byte {
	text, err := builtIn.ReadFile("templates/" + name)
	if err != nil {
		panic(err) // this program was built wrong
	}
	return text
}

// render makes a mail of what is told. A template of the administrator's that is
// broken is replaced by the built-in one, and the log says so.
func (d *Deliverer) render(channel string, told *Told) (subject, body string, err error) {
	name := "event.txt"
	switch {
	case told.Digest != nil:
		name = "digest.txt"
	case channel == Customer:
		name = "customer.txt"
	}
	subject, body, err = own(d.Config.NotifyTemplates, name, told)
	if err == nil {
		return subject, body, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		d.Log.Error().Err(err).Msg("the built-in template is used in place of a broken one")
	}
	return execute(name, BuiltIn(name), told)
}

// own renders a template of the administrator's.
func own(dir, name string, told *Told) (subject, body string, err error) {
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	return execute(path, text, told)
}

// maxText bounds a mail, whatever a template does.
const maxText = 256 << 10

// execute runs a template. Its first line is the subject, and the body follows an
// empty line.
func execute(name string, text []byte, told *Told) (subject, body string, err error) {
	t, err := template.New(filepath.Base(name)).Funcs(template.FuncMap{"when": when}).Parse(string(text))
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", name, err)
	}
	out := &bounded{}
	if err := t.Execute(out, told); err != nil {
		return "", "", fmt.Errorf("%s: %w", name, err)
	}
	first, body, ok := strings.Cut(out.String(), "\n\n")
	subject, is := strings.CutPrefix(first, "Subject: ")
	if !ok || !is || strings.Contains(subject, "\n") {
		return "", "", fmt.Errorf("%s: its first line must be Subject: and a text, and its second line empty", name)
	}
	return subject, strings.TrimSpace(body) + "\n", nil
}

// bounded is a buffer that gets full.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxText {
		return 0, errors.New("the text is too long")
	}
	return b.Buffer.Write(p)
}

// when writes a time for people.
func when(v any) string {
	switch t := v.(type) {
	case time.Time:
		return t.Local().Format("2006-01-02 15:04:05 MST")
	case *time.Time:
		if t != nil {
			return when(*t)
		}
	}
	return ""
}

// printable makes one line of a stranger's text, that neither a terminal nor a
// header obeys: no line break, no control character, nothing that turns the
// direction of writing.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9@%+=:,./_][A-Za-z0-9@%+=:,./_-]*$|^--?[a-z]+$`)

// shellLine is a command line that sh(1) reads as these words: within single
// quotes it reads nothing but the next one.
func shellLine(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if !plainWord.MatchString(w) {
			w = "'" + strings.ReplaceAll(printable(w), "'", `'\''`) + "'"
		}
		quoted[i] = w
	}
	return strings.Join(quoted, " ")
}
