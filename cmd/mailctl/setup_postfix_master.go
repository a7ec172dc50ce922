package main

import (
	"bytes"
	"slices"
	"strings"
)

// masterService is an entry of master.cf, all of its lines.
type masterService struct {
	name, kind, command string
	options             []masterOption // -o of the command
	start, end          int            // of its lines
}

// masterOption is -o name=value or -o { name = value }.
type masterOption struct {
	name, value string
	start, end  int  // from -o to what is behind it
	at          int  // of the value
	braces      bool // the value may have blanks
}

// masterServices reads master.cf as master(5) has it: words between blanks, one in
// braces with blanks, and lines that go on as in main.cf.
func masterServices(text []byte) []masterService {
	var all []masterService
	var words [][2]int
	end := func() {
		if len(all) > 0 {
			all[len(all)-1].read(text, words)
		}
		words = nil
	}
	offset := 0
	for line := range bytes.Lines(text) {
		start := offset
		offset += len(line)
		trimmed := bytes.TrimSpace(line)
		if len(trimmed) == 0 || trimmed[0] == '#' {
			continue
		}
		if line[0] != ' ' && line[0] != '\t' {
			end()
			all = append(all, masterService{start: start})
		} else if len(all) == 0 {
			continue
		}
		all[len(all)-1].end = offset
		words = appendWords(words, text, start, offset)
	}
	end()
	return all
}

// appendWords appends the words of text[from:to]. Braces that are not closed on their
// line end with it.
func appendWords(words [][2]int, text []byte, from, to int) [][2]int {
	start, depth := -1, 0
	for i := from; i < to; i++ {
		c := text[i]
		blank := c == ' ' || c == '\t' || c == '\r' || c == '\n'
		switch {
		case blank && depth == 0 || c == '\n':
			if start >= 0 {
				words = append(words, [2]int{start, i})
			}
			start, depth = -1, 0
		case start < 0:
			start = i
			if c == '{' {
				depth = 1
			}
		case depth > 0 && c == '{':
			depth++
		case depth > 0 && c == '}':
			depth--
		}
	}
	if start >= 0 {
		words = append(words, [2]int{start, to})
	}
	return words
}

func (s *masterService) read(text []byte, words [][2]int) {
	if len(words) < 8 {
		return
	}
	word := func(i int) string { return string(text[words[i][0]:words[i][1]]) }
	s.name, s.kind, s.command = word(0), word(1), word(7)
	for i := 8; i < len(words); i++ {
		start, from := words[i][0], words[i][0]+len("-o")
		switch {
		case word(i) == "-o" && i+1 < len(words):
			i++
			from = words[i][0]
		case !strings.HasPrefix(word(i), "-o") || word(i) == "-o":
			continue
		}
		o := masterOption{start: start, end: words[i][1]}
		to := o.end
		if o.braces = text[from] == '{'; o.braces {
			from++
			to--
			if to < from || text[to] != '}' {
				continue // Postfix does not take it either
			}
		}
		name, value, ok := bytes.Cut(text[from:to], []byte("="))
		if !ok {
			continue
		}
		o.name, o.value = string(bytes.TrimSpace(name)), string(bytes.TrimSpace(value))
		o.at = to - len(bytes.TrimLeft(value, " \t"))
		s.options = append(s.options, o)
	}
}

// option is the last -o of a name: it holds.
func (s *masterService) option(name string) (o masterOption, ok bool) {
	for _, option := range s.options {
		if option.name == name {
			o, ok = option, true
		}
	}
	return o, ok
}

// isSMTPD tells whether SMTP clients are served.
func (s *masterService) isSMTPD() bool { return s.command == "smtpd" }

// isReinjection tells whether mail comes back there from a filter, counted already when
// it came in: after the queue (FILTER_README: an empty content_filter), or before it
// (SMTPD_PROXY_README: a filter that may say XFORWARD), at a port of loopback.
func (s *masterService) isReinjection() bool {
	if !s.isSMTPD() || s.kind != "inet" {
		return false
	}
	host := s.name[:max(strings.LastIndexByte(s.name, ':'), 0)]
	if !strings.HasPrefix(host, "127.") && host != "localhost" && host != "[::1]" && host != "::1" {
		return false
	}
	filter, after := s.option("content_filter")
	forward, before := s.option("smtpd_authorized_xforward_hosts")
	return after && filter.value == "" || before && forward.value != ""
}

// expandedBeforeFilter names the services whose mail goes to a filter after the queue with
// its aliases expanded, as cleanup(8) does unless receive_override_options says
// no_address_mappings: what comes back shows no longer that it is sent on.
func expandedBeforeFilter(main, master []byte) (names []string) {
	for _, s := range masterServices(master) {
		if slices.Contains([]string{"smtpd", "pickup", "qmqpd"}, s.command) && s.value(main, "content_filter") != "" &&
			!strings.Contains(s.value(main, "receive_override_options"), "no_address_mappings") {
			names = append(names, s.name)
		}
	}
	return names
}

// trustsXCLIENT names the services that take the login name from programs of this host,
// by the command XCLIENT.
func trustsXCLIENT(main, master []byte) (names []string) {
	for _, s := range masterServices(master) {
		hosts := s.value(main, "smtpd_authorized_xclient_hosts")
		if s.isSMTPD() && (strings.Contains(hosts, "127.") || strings.Contains(hosts, "localhost") || strings.Contains(hosts, "::1")) {
			names = append(names, s.name)
		}
	}
	return names
}

// value is that of a parameter in a service: its own, or main.cf's.
func (s *masterService) value(main []byte, name string) string {
	if o, ok := s.option(name); ok {
		return o.value
	}
	p, _ := setting(main, name)
	return p.value
}

// noQuestion is the line of a service that shall not ask.
const noQuestion = "  -o " + mailquotaPolicy + "=\n"

// masterWith is master.cf with our question in each service that has restrictions of its
// own; those that inherit main.cf's ask already. left are the services that do not ask.
func masterWith(text []byte) (with []byte, left []string) {
	with = bytes.Clone(text)
	for _, s := range reversed(masterServices(text)) {
		if !s.isSMTPD() {
			continue
		}
		if o, ok := s.option(mailquotaPolicy); ok && o.value == "" {
			left = append(left, s.name)
			continue
		}
		if s.isReinjection() {
			with = slices.Insert(with, s.end, []byte(noQuestion)...)
			left = append(left, s.name)
			continue
		}
		for _, o := range reversed(s.options) {
			if !slices.Contains(policyRestrictions, o.name) {
				continue
			}
			word := policyWord + ","
			if o.braces && o.value != "" {
				word += " "
			}
			with = slices.Insert(with, o.at, []byte(word)...)
		}
	}
	slices.Reverse(left)
	return with, left
}

// masterWithout is master.cf without what masterWith puts there. An empty
// mailquota_policy elsewhere is its administrator's choice, and stays.
func masterWithout(text []byte) []byte {
	rest := bytes.Clone(text)
	for _, s := range reversed(masterServices(text)) {
		for _, o := range reversed(s.options) {
			switch {
			case o.name == mailquotaPolicy && o.value == "" && s.isReinjection():
				start, end := o.start, o.end
				for start > 0 && (rest[start-1] == ' ' || rest[start-1] == '\t') {
					start--
				}
				// With its line, if that has nothing else.
				if end < len(rest) && rest[end] == '\n' && start > 0 && rest[start-1] == '\n' {
					end++
				}
				rest = slices.Delete(rest, start, end)
			case slices.Contains(policyRestrictions, o.name):
				rest = slices.Concat(rest[:o.at], withoutWord(rest[o.at:o.end], o.braces), rest[o.end:])
			}
		}
	}
	return rest
}

func reversed[T any](list []T) []T {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}
