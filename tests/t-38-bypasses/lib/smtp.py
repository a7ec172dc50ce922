"""An SMTP client without a login: smtp.py [HOW…] HOST PORT TO… HOW: --mapped (an IPv6 socket to an IPv4 address),
--mptcp, --fin and --reset (all written at once, then gone), --notify (a report of success is asked for),
--xclient NAME (as whom), --fast (data with the SYN). The envelope sender is $FROM, or one of the
attack's domain. Exits 1 where it is refused."""
import os, socket, struct, sys

args, how = sys.argv[1:], set()
login = None
while args[0].startswith("--"):
    how.add(args.pop(0))
    if "--xclient" in how and login is None:
        login = args.pop(0)
host, port, rcpts = args[0], int(args[1]), args[2:]
v6 = ":" in host or "--mapped" in how
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM, 262 if "--mptcp" in how else 0)
address = (("::ffff:" if "--mapped" in how else "") + host, port)
if "--fast" in how:
    s.sendto(b"", socket.MSG_FASTOPEN, address)
else:
    s.connect(address)
s.settimeout(10)
f = s.makefile("rb")


def reply(to):
    while True:
        line = f.readline()
        if line[3:4] != b"-":
            break
    if line[:1] not in (b"2", b"3"):
        print(to, line, file=sys.stderr)
        sys.exit(1)


notify = " NOTIFY=SUCCESS" if "--notify" in how else ""
lines = ["EHLO client.example"]
if login:
    lines += [f"XCLIENT LOGIN={login}", "EHLO client.example"]
lines += [f"MAIL FROM:<{os.environ.get('FROM', 'alice@' + os.environ['DOMAIN'])}>"]
lines += [f"RCPT TO:<{to}>{notify}" for to in rcpts] + ["DATA", "Subject: by SMTP\r\n\r\nx\r\n."]
lines = [line.encode() + b"\r\n" for line in lines]
reply("")
if how & {"--fin", "--reset"}:
    s.sendall(b"".join(lines) + (b"" if "--reset" in how else b"QUIT\r\n"))
    if "--reset" in how:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    f.close()
    s.close()
    sys.exit()
for line in lines:
    s.sendall(line)
    reply(line)
