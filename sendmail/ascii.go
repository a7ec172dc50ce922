package sendmail

// Classes of bytes, in ASCII whatever the locale.

// cSpace is white space as isspace(3) has it.
const cSpace = " \t\r\n\v\f"

func isCSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// isSpace is white space of RFC 5322, 2.2.2, with line breaks.
func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// isBlank is what a line that continues another begins with (RFC 5322, 2.2.3).
func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isAlpha(c byte) bool { return 'a' <= lower(c) && lower(c) <= 'z' }

func isAlnum(c byte) bool { return isDigit(c) || isAlpha(c) }

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
