package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// webhookBound bounds a request with its answer.
const webhookBound = 10 * time.Second

// SignatureHeader is the name of the field that proves from whom a request is, and
// when it was made: t=UNIX,v1=HEX, where HEX is HMAC-SHA256(key, UNIX + "." + body).
const SignatureHeader = "X-Mailquota-Signature"

// Redirects are not followed: what was signed for one server is nothing for
// another.
var client = &http.Client{
	Timeout:       webhookBound,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// post sends what is told to a web server, which takes it with a status of 2xx.
func (d *Deliverer) post(ctx context.Context, url string, told *Told) error {
	key, err := readKey(d.Config.NotifyWebhookKey)
	if err != nil {
		return err
	}
	body, err := json.Marshal(told)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "mailquota")
	request.Header.Set(SignatureHeader, sign(key, time.Now(), body))
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s: answered %s, not 2xx", url, answer.Status)
	}
	return nil
}

func sign(key []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// minKey is how many bytes a key has at least.
const minKey = 12

// readKey reads the key of the signatures: all of the file but line breaks at its
// end. One that everybody can read proves nothing.
func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("notify-webhook-key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("notify-webhook-key: %w", err)
	}
	if st.Mode()&0o007 != 0 {
		return nil, fmt.Errorf("notify-webhook-key: everybody may use %s: type chown root:mailquota %s && chmod 0640 %s", path, path, path)
	}
	key, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fmt.Errorf("notify-webhook-key: %w", err)
	}
	if key = bytes.TrimRight(key, "\r\n"); len(key) < minKey {
		return nil, errors.New("notify-webhook-key: " + path + " has less than " + strconv.Itoa(minKey) + " bytes")
	}
	return key, nil
}
