package wrapper

import "strings"

// refuseSMTP is the SMTP server of a call of sendmail -bs that was refused: it
// greets with 554, which closes the session for mail, takes QUIT, and answers
// 503 to all else (RFC 5321, section 3.1).
func refuseSMTP(text string) int {
	writeAll(1, []byte("554 5.7.1 "+text+"\r\n"))
	buf := make([]byte, chunk)
	var line []byte // the first bytes of the line that is being read
	for {
		n, err := readStdin(buf)
		if n == 0 || err != nil {
			return exUnavailable
		}
		for _, b := range buf[:n] {
			switch {
			case b != '\n':
				if len(line) < 8 {
					line = append(line, b)
				}
			case strings.EqualFold(strings.TrimSpace(string(line)), "quit"):
				writeAll(1, []byte("221 2.0.0 Bye\r\n"))
				return exUnavailable
			default:
				writeAll(1, []byte("503 5.5.1 No mail is taken here; type QUIT\r\n"))
				line = line[:0]
			}
		}
	}
}
