"""An SMTP client without a login: client.py HOST PORT FROM TO [HOW]. HOW: close, reset (at once after the dot, all
written before), mapped (an IPv6 socket connected to an IPv4 address), leave (after RCPT, then gone)."""
import socket, struct, sys

host, port, sender, to, how = (sys.argv[1:] + [""])[:5]
if how == "mapped":
    s = socket.socket(socket.AF_INET6)
    s.connect(("::ffff:" + host, int(port)))
else:
    s = socket.create_connection((host, int(port)))
f = s.makefile("rb")


def reply():
    while True:
        line = f.readline()
        if line[3:4] != b"-":
            return line.decode().strip()


lines = [b"EHLO client.example\r\n", b"MAIL FROM:<%s>\r\n" % sender.encode(), b"RCPT TO:<%s>\r\n" % to.encode(), b"DATA\r\n",
         b"Subject: local\r\n\r\nx\r\n.\r\n"]
reply()
if how in ("close", "reset"):
    s.sendall(b"".join(lines) + (b"QUIT\r\n" if how == "close" else b""))
    if how == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    f.close()
    s.close()
    sys.exit()
for line in lines:
    s.sendall(line)
    said = reply()
    if said[0] in "45":
        print(said)
        sys.exit(1)
    if how == "leave" and line.startswith(b"DATA"):  # the uid of this connection is known since RCPT
        s.sendall(lines[-1])
        sys.exit()
print(said)
