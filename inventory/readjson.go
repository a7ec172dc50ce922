package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"sendmail-wrapper/quota"
)

const maxDepth = 8 // of values in values, where the format has 4

// jsonReader reads a file value by value, so that it knows the line of each.
type jsonReader struct {
	file string
	text []byte
	host string
	d    *json.Decoder
	b    *builder

	at, line int // line of the offset at
}

// ReadJSON reads what WriteJSON writes. Names that the format does not have, or
// that stand twice in an object, are errors. Users without a host are of this one.
func ReadJSON(file string, text []byte, host string) (*Inventory, error) {
	text, err := checkText(file, text, math.MaxInt)
	if err != nil {
		return nil, err
	}
	r := &jsonReader{file: file, text: text, host: host, d: json.NewDecoder(bytes.NewReader(text)), b: newBuilder(), line: 1}
	if err := r.read(); err != nil {
		return nil, err
	}
	return r.b.inv, nil
}

// lineOf counts on from where it last counted to.
func (r *jsonReader) lineOf(offset int) int {
	offset = min(offset, len(r.text))
	if offset < r.at {
		r.at, r.line = 0, 1
	}
	r.line += bytes.Count(r.text[r.at:offset], []byte("\n"))
	r.at = offset
	return r.line
}

func (r *jsonReader) wrong(offset int, err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		offset = int(syntax.Offset)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		offset, err = len(r.text), errors.New("the file ends too early")
	}
	return &Error{r.file, r.lineOf(offset), 0, strings.TrimPrefix(err.Error(), "json: ")}
}

func (r *jsonReader) expect(want json.Delim) error {
	token, err := r.d.Token()
	if err == nil && token != want {
		err = fmt.Errorf("%v where %v should be", token, want)
	}
	if err != nil {
		return r.wrong(int(r.d.InputOffset()), err)
	}
	return nil
}

func (r *jsonReader) read() error {
	if err := r.expect('{'); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for r.d.More() {
		token, err := r.d.Token()
		if err != nil {
			return r.wrong(int(r.d.InputOffset()), err)
		}
		name := token.(string) // within an object the decoder returns nothing else
		offset := int(r.d.InputOffset())
		if seen[name] {
			return r.wrong(offset, fmt.Errorf("%q stands there twice", name))
		}
		seen[name] = true
		switch at := slices.IndexFunc(sections, func(s struct {
			name  string
			class quota.Class
		}) bool {
			return s.name == name
		}); {
		case name == "format":
			var n int
			if err := r.value(&n, nil); err != nil {
				return err
			}
			if n != format {
				return r.wrong(offset, fmt.Errorf("format %d: this program knows %d", n, format))
			}
		case name == "server":
			if err := r.element(quota.Server); err != nil {
				return err
			}
		case at < 0:
			return r.wrong(offset, fmt.Errorf("%q is not in this format", name))
		default:
			if err := r.section(sections[at].class); err != nil {
				return err
			}
		}
	}
	if err := r.expect('}'); err != nil {
		return err
	}
	if _, err := r.d.Token(); err != io.EOF {
		return r.wrong(int(r.d.InputOffset()), errors.New("something follows the end"))
	}
	if !seen["format"] {
		return r.wrong(0, errors.New(`"format" is missing: write "format": 1`))
	}
	return nil
}

func (r *jsonReader) section(class quota.Class) error {
	if err := r.expect('['); err != nil {
		return err
	}
	for r.d.More() {
		if err := r.element(class); err != nil {
			return err
		}
	}
	return r.expect(']')
}

// readers read an object of a class.
var readers = map[quota.Class]func(r *jsonReader) (Object, error){
	quota.Server: readObject[jsonServer], quota.Plan: readObject[jsonPlan], quota.Subscription: readObject[jsonSubscription],
	quota.Domain: readObject[jsonDomain], quota.Mailbox: readObject[jsonMailbox], quota.User: readObject[jsonUser],
}

func readObject[J interface {
	object(host string) (Object, error)
}](r *jsonReader) (Object, error) {
	var j J
	var line int
	if err := r.value(&j, &line); err != nil {
		return Object{}, err
	}
	o, err := j.object(r.host)
	if err == nil && o.Mode.Value != "" {
		_, err = quota.ParseMode(o.Mode.Value)
	}
	if err != nil {
		return Object{}, &Error{r.file, line, 0, err.Error()}
	}
	o.Line = line
	return o, nil
}

// element reads an object, or, of class 0, an exception.
func (r *jsonReader) element(class quota.Class) error {
	if class == 0 {
		return r.exception()
	}
	o, err := readers[class](r)
	if err != nil {
		return err
	}
	if i, again := r.b.at[o.Key()]; again {
		return &Error{r.file, o.Line, 0, fmt.Sprintf("%s stands there twice, first on line %d", o.Ref, r.b.inv.Objects[i].Line)}
	}
	return r.b.put(o) // new, so it contradicts nothing
}

func (r *jsonReader) exception() error {
	var j jsonException
	var line int
	if err := r.value(&j, &line); err != nil {
		return err
	}
	x, err := j.exception(r.host)
	if err != nil {
		return &Error{r.file, line, 0, err.Error()}
	}
	x.Line = line
	r.b.inv.Exceptions = append(r.b.inv.Exceptions, x)
	return nil
}

// value reads the next value strictly; line becomes where it begins.
func (r *jsonReader) value(into any, line *int) error {
	var raw json.RawMessage
	if err := r.d.Decode(&raw); err != nil {
		return r.wrong(int(r.d.InputOffset()), err)
	}
	start := int(r.d.InputOffset()) - len(raw)
	if line != nil {
		*line = r.lineOf(start)
	}
	if err := checkKeys(raw); err != nil {
		return r.wrong(start, err)
	}
	strict := json.NewDecoder(bytes.NewReader(raw))
	strict.DisallowUnknownFields()
	if err := strict.Decode(into); err != nil {
		return &Error{r.file, r.lineOf(start), 0, wordError(err)}
	}
	return nil
}

// wordError leaves out the names that only this program knows.
func wordError(err error) string {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		if kind.Field != "" {
			return fmt.Sprintf("%s cannot be a %s", kind.Field, kind.Value)
		}
		return fmt.Sprintf("a %s is not what should be here", kind.Value)
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// checkKeys refuses names that stand twice in an object, of which package json
// would take the last, whatever its case, and values too deep.
func checkKeys(raw []byte) error {
	type level struct {
		keys map[string]bool // nil: an array
		key  bool            // a key comes next
	}
	var levels []level
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			if len(levels) == maxDepth {
				return errors.New("values too deep in each other")
			}
			l := level{}
			if token == json.Delim('{') {
				l = level{make(map[string]bool), true}
			}
			levels = append(levels, l)
			continue
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
		if len(levels) == 0 {
			continue
		}
		top := &levels[len(levels)-1]
		if top.keys == nil {
			continue
		}
		if name, isString := token.(string); top.key && isString {
			if name = strings.ToLower(name); top.keys[name] {
				return fmt.Errorf("%q stands there twice", name)
			}
			top.keys[name] = true
			top.key = false
			continue
		}
		top.key = true
	}
}
