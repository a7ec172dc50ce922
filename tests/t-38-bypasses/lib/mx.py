"""A mail server of somebody else: on 25, 465, 587 it takes everything, and leaves it in /var/mail-sink as the server's
own sink does. On 7 it is told an address of the server, and sends a mail there: an accomplice."""
import os, smtplib, socket, socketserver, sys, threading, itertools

count = itertools.count()


class MX(socketserver.StreamRequestHandler):
    def handle(self):
        def say(text):
            self.wfile.write(text.encode() + b"\r\n")
        sender, rcpts = "", []
        say("220 mx.outside.example")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"MAIL":
                sender, rcpts = line.split(b"<")[1].split(b">")[0].decode(), []
            elif verb == b"RCPT":
                rcpts.append(line.split(b"<")[1].split(b">")[0].decode())
            elif verb == b"DATA":
                say("354 go on")
                content = b""
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    content += line
                if not line:
                    return
                for rcpt in rcpts:
                    name = f"/var/mail-sink/mx.{next(count)}"
                    with open(name + ".part", "wb") as f:
                        f.write(f"X-Envelope-Sender: {sender}\nX-Envelope-Recipient: {rcpt}\n".encode() + content)
                    os.rename(name + ".part", name)
            elif verb == b"QUIT":
                say("221 bye")
                return
            say("250 ok")


class Accomplice(socketserver.StreamRequestHandler):
    def handle(self):
        to = self.rfile.readline().decode().strip()
        try:
            with smtplib.SMTP("192.0.2.1", 25, "mx.outside.example", timeout=10) as s:
                s.sendmail("friend@outside.example", [to], "Subject: %s\r\n\r\nx\r\n" % to)
            self.wfile.write(b"ok\n")
        except (OSError, smtplib.SMTPException) as e:
            self.wfile.write(repr(e).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, daemon_threads, request_queue_size = socket.AF_INET6, True, True, 64


for port, handler in (25, MX), (465, MX), (587, MX), (7, Accomplice):
    threading.Thread(target=Server(("::", port), handler).serve_forever).start()
open(sys.argv[1], "w").close()
