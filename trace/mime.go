package trace

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime"
	"mime/quotedprintable"
	"strings"
)

// body looks for messages in the body that belongs to a header.
func (p *mailParser) body(fields []field, body []byte, depth int) {
	if p.parts++; p.parts > maxParts || depth > maxDepth {
		return
	}
	kind, params := contentType(fields)
	// A multipart has no encoding (RFC 2045 6.4), whatever it says.
	if boundary := params["boundary"]; strings.HasPrefix(kind, "multipart/") && boundary != "" {
		rest := body
		for p.parts <= maxParts {
			part, next, ok := nextPart(rest, boundary)
			if !ok {
				return
			}
			header, content := splitPart(part)
			p.body(header, content, depth+1)
			rest = next
		}
		return
	}
	switch {
	case kind == "message/rfc822", kind == "message/global", kind == "message/global-headers",
		kind == "text/rfc822-headers", kind == "message/rfc822-headers", kind == "text/rfc822":
		p.message(decode(fields, body), "attached", depth+1)
	case strings.HasPrefix(kind, "text/") && kind != "text/html":
		p.text(decode(fields, body))
	}
}

// contentType of a header that has none, or none that can be read, is text/plain
// (RFC 2045 5.2).
func contentType(fields []field) (kind string, params map[string]string) {
	for _, f := range fields {
		if strings.EqualFold(f.name, "Content-Type") {
			kind, params, err := mime.ParseMediaType(f.value)
			if err != nil && kind == "" {
				break
			}
			return kind, params
		}
	}
	return "text/plain", nil
}

// nextPart cuts the next part of a multipart, from what follows the boundary
// before it. The last one may lack its end: bounces are often cut.
func nextPart(rest []byte, boundary string) (part, next []byte, ok bool) {
	delimiter := []byte("--" + boundary)
	begin, isEnd := findBoundary(rest, delimiter)
	if begin < 0 || isEnd {
		return nil, nil, false
	}
	_, rest, _ = bytes.Cut(rest[begin:], []byte("\n"))
	end, _ := findBoundary(rest, delimiter)
	if end < 0 {
		return rest, nil, true
	}
	return rest[:end], rest[end:], true
}

// findBoundary finds the next line that is a boundary; -1 if there is none.
func findBoundary(b, delimiter []byte) (at int, isEnd bool) {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, delimiter); ok {
			rest = bytes.TrimRight(rest, " \t\r\n")
			if len(rest) == 0 || string(rest) == "--" {
				return at, len(rest) > 0
			}
		}
		at += len(line)
	}
	return -1, false
}

// splitPart is splitHeader for a part, which may begin with the empty line.
func splitPart(part []byte) (fields []field, body []byte) {
	for _, empty := range []string{"\n", "\r\n"} {
		if body, ok := bytes.CutPrefix(part, []byte(empty)); ok {
			return nil, body
		}
	}
	return splitHeader(part)
}

// decode undoes the transfer encoding as far as it is right.
func decode(fields []field, body []byte) []byte {
	for _, f := range fields {
		if !strings.EqualFold(f.name, "Content-Transfer-Encoding") {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(f.value)) {
		case "base64":
			// RFC 2045 6.8: characters outside of the alphabet are passed over.
			clean := bytes.Map(func(r rune) rune {
				if r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '+' || r == '/' {
					return r
				}
				return -1
			}, body)
			decoded := make([]byte, base64.RawStdEncoding.DecodedLen(len(clean)))
			n, _ := base64.RawStdEncoding.Decode(decoded, clean)
			return decoded[:n]
		case "quoted-printable":
			decoded, _ := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body)))
			return decoded
		}
	}
	return body
}

// text looks for the header of a message that a bounce or a complaint has in its
// text, perhaps quoted: the lines without an empty one around a trace field.
func (p *mailParser) text(body []byte) {
	lower := bytes.ToLower(body)
	isNamed := false
	for _, name := range p.fields {
		isNamed = isNamed || bytes.Contains(lower, []byte(strings.ToLower(name)+":"))
	}
	if !isNamed {
		return
	}
	var block []byte
	for line := range bytes.Lines(body) {
		line = bytes.TrimRight(line, "\r\n")
		for bytes.HasPrefix(line, []byte(">")) {
			line = bytes.TrimPrefix(line[1:], []byte(" "))
		}
		if len(bytes.TrimSpace(line)) > 0 {
			block = append(append(block, line...), '\n')
			continue
		}
		p.block(block)
		block = block[:0]
	}
	p.block(block)
}

// block keeps the header in some lines of a text, if it has a trace field. Before
// it there may be other lines.
func (p *mailParser) block(block []byte) {
	for len(block) > 0 {
		fields, rest := splitHeader(block)
		for _, f := range fields {
			for _, name := range p.fields {
				if strings.EqualFold(f.name, name) {
					p.keep(fields, "in the text")
					return
				}
			}
		}
		if len(rest) == len(block) {
			_, rest, _ = bytes.Cut(block, []byte("\n"))
		}
		block = rest
	}
}
