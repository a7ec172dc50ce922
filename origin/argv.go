package origin

import (
	"path/filepath"
	"strings"
)

// language is a family of interpreters that tell a script by their arguments.
type language uint8

const (
	noLanguage language = iota
	langPHP
	langPHPCGI
	langShell
	langOther // perl, python, ruby, node
)

// languageOf names the family of an executable or of argv[0] by its base name:
// "php8.2", "python3.11", "-bash".
func languageOf(program string) language {
	base := strings.TrimPrefix(filepath.Base(program), "-")
	switch {
	case strings.HasPrefix(base, "php-cgi"), strings.HasPrefix(base, "lsphp"):
		return langPHPCGI
	case strings.HasPrefix(base, "php-fpm"):
		return noLanguage
	}
	switch strings.TrimRight(base, "0123456789.-") {
	case "php":
		return langPHP
	case "sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "fish", "tcsh", "csh", "rbash", "busybox":
		return langShell
	case "perl", "python", "ruby", "node", "nodejs":
		return langOther
	}
	return noLanguage
}

// optionTable says how an interpreter reads its options, as far as it takes to
// find the script after them. Options not named here stand alone. Sources: OPTIONS
// in php_cli.c; dash(1) and bash(1); perlrun(1); python(1); ruby(1); node(1).
type optionTable struct {
	valued  string          // letters whose value is joined to them or the next argument
	joined  string          // letters whose value can only be joined
	inline  string          // letters with which the code is on the command line
	stdin   string          // letters with which it comes from standard input
	module  string          // letters whose value is a module that is the script
	file    string          // letters whose value is the script
	long    map[string]byte // --names with a value, and the letter they equal
	bundled bool            // "-xc" is "-x -c"
	plus    bool            // "+x" is an option too
}

var (
	phpOptions = optionTable{
		valued: "cdzSt", inline: "rRBE", file: "fF", bundled: true,
		long: map[string]byte{
			"php-ini": 'c', "define": 'd', "zend-extension": 'z', "server": 'S', "docroot": 't',
			"run": 'r', "process-code": 'R', "process-begin": 'B', "process-end": 'E', "file": 'f', "process-file": 'F',
		},
	}
	shellOptions = optionTable{
		valued: "oO", inline: "c", stdin: "s", bundled: true, plus: true,
		long: map[string]byte{"rcfile": 'O', "init-file": 'O'},
	}
	otherOptions = map[string]optionTable{
		"perl":   {valued: "I", joined: "CDFilmMVx0", inline: "eE", bundled: true},
		"python": {valued: "WX", inline: "c", module: "m", bundled: true, long: map[string]byte{"check-hash-based-pycs": 'X'}},
		"ruby":   {valued: "CEIr", joined: "FKTWxi0", inline: "e", bundled: true},
		"node": {valued: "rC", inline: "ep", stdin: "i", long: map[string]byte{
			"require": 'r', "import": 'r', "loader": 'r', "experimental-loader": 'r', "conditions": 'C', "eval": 'e', "print": 'p',
			"interactive": 'i', "env-file": 'C', "env-file-if-exists": 'C', "title": 'C', "icu-data-dir": 'C', "input-type": 'C',
			"inspect-port": 'C', "debug-port": 'C', "openssl-config": 'C', "redirect-warnings": 'C', "unhandled-rejections": 'C',
			"dns-result-order": 'C', "diagnostic-dir": 'C', "report-dir": 'C', "report-directory": 'C', "report-filename": 'C',
			"max-http-header-size": 'C', "disable-warning": 'C', "watch-path": 'C', "experimental-default-type": 'C',
		}},
	}
)

// moduleFlag stands before the name of a module in the place of a script.
const moduleFlag = "-m "

// scriptOf returns the script that an interpreter was started with, as its
// arguments give it, which may be relative, or "-m MODULE"; "" for code from the command line,
// from standard input or typed in. inline says that it runs code of its command
// line, as the "sh -c" of popen(3) does.
func scriptOf(lang language, args []string) (script string, inline bool) {
	if len(args) == 0 {
		return "", false
	}
	var table optionTable
	switch lang {
	case langPHP:
		table = phpOptions
	case langShell:
		table = shellOptions
		if filepath.Base(args[0]) == "busybox" && len(args) > 1 {
			args = args[1:]
		}
	case langOther:
		base := strings.TrimRight(filepath.Base(args[0]), "0123456789.-")
		table = otherOptions[strings.TrimSuffix(base, "js")]
	default:
		return "", false
	}
	return table.script(args[1:])
}

func (t *optionTable) script(args []string) (script string, inline bool) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		var letter byte // 0 if the option stands alone
		var value string
		switch {
		case arg == "--":
			if i+1 < len(args) {
				return args[i+1], false
			}
			return "", false
		case arg == "-", arg == "":
			return "", false
		case strings.HasPrefix(arg, "--"):
			var name string
			name, value, _ = strings.Cut(arg[2:], "=")
			letter = t.long[name]
		case arg[0] == '-', arg[0] == '+' && t.plus:
			letter, value = t.valueLetter(arg[1:])
		default:
			return arg, false
		}
		switch {
		case letter == 0 || strings.IndexByte(t.joined, letter) >= 0:
			continue
		case strings.IndexByte(t.inline, letter) >= 0:
			return "", true
		case strings.IndexByte(t.stdin, letter) >= 0:
			return "", false
		}
		if value == "" {
			if i++; i < len(args) {
				value = args[i]
			}
		}
		switch {
		case strings.IndexByte(t.file, letter) >= 0:
			return strings.TrimPrefix(value, "="), false
		case strings.IndexByte(t.module, letter) >= 0:
			return moduleFlag + value, false
		}
	}
	return "", false
}

// valueLetter returns the first of some letters that has a meaning here, and
// what is joined to it; 0 if all stand alone.
func (t *optionTable) valueLetter(letters string) (letter byte, value string) {
	if !t.bundled && letters != "" {
		letters = letters[:1]
	}
	at := strings.IndexAny(letters, t.valued+t.joined+t.inline+t.stdin+t.module+t.file)
	if at < 0 {
		return 0, ""
	}
	return letters[at], letters[at+1:]
}

// inlineCommand returns the command of a shell that runs nothing else: the
// arguments SHELL -c COMMAND of cron, at and popen(3).
func inlineCommand(args []string) (string, bool) {
	if len(args) == 3 && args[1] == "-c" {
		return args[2], true
	}
	// glibc 2.38 and musl put "--" before the command of popen(3) and system(3).
	if len(args) == 4 && args[1] == "-c" && args[2] == "--" {
		return args[3], true
	}
	return "", false
}
