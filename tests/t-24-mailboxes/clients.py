"""SMTP clients of mailboxes, as real ones behave: many at a time, pipelined, and those that go away.

clients.py burst N RECIPIENTS     N sessions at a time, one message each; prints "accepted refused"
clients.py refused RECIPIENTS     one message, refused at its end, and then another in the same session, without
                                  RSET; prints both replies
clients.py leave WHERE N          N sessions that reset the connection: after rcpt, in content, after dot,
                                  or pipelined (all in one write, then reset)
"""
import asyncio, base64, socket, struct, sys

AUTH = base64.b64encode(b"\0carol@box.test\0secret").decode()
HELLO = [b"EHLO client.example\r\n", b"AUTH PLAIN " + AUTH.encode() + b"\r\n"]
CONTENT = b"From: carol@box.test\r\nSubject: of a client\r\n\r\n" + b"x\r\n" * 20


async def reply(r):
    while True:
        line = await r.readline()
        if not line:
            raise ConnectionError("the server has gone")
        if line[3:4] != b"-":
            return line.decode().strip()


async def connect():
    r, w = await asyncio.open_connection("127.0.0.1", 587)
    await reply(r)
    for line in HELLO:
        w.write(line)
        await reply(r)
    return r, w


def envelope(to):
    return [b"MAIL FROM:<carol@box.test>\r\n"] + [b"RCPT TO:<%s>\r\n" % t.encode() for t in to] + [b"DATA\r\n"]


async def send(n, recipients):
    """Pipelines the envelope, as Thunderbird does; the reply that says what became of it."""
    r, w = await connect()
    lines = envelope([f"to{n}.{i}@out.example" for i in range(recipients)])
    w.write(b"".join(lines))
    answers = [await reply(r) for _ in lines]
    if answers[-1].startswith("354"):
        w.write(CONTENT + b".\r\n")
        answers.append(await reply(r))
    w.write(b"QUIT\r\n")
    w.close()
    refusals = [a for a in answers if a[0] in "45" and "no valid recipients" not in a.lower()]
    return refusals[0] if refusals else answers[-1]


async def leave(where, n):
    r, w = await connect()
    lines = envelope([f"left.{where}{n}@out.example"])
    if where == "pipelined":
        w.write(b"".join(lines) + CONTENT + b".\r\n")
    else:
        for line in lines[: 2 if where == "rcpt" else 3]:
            w.write(line)
            await reply(r)
        if where == "content":
            w.write(CONTENT)
        if where == "dot":
            w.write(CONTENT + b".\r\n")
    await w.drain()
    sock = w.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST instead of FIN
    w.transport.abort()


async def refuse(recipients):
    r, w = await connect()
    lines = envelope([f"to{i}@out.example" for i in range(recipients)])
    w.write(b"".join(lines))
    answers = [await reply(r) for _ in lines]
    w.write(CONTENT + b".\r\n")
    print(answers[-1], await reply(r), sep="\n")
    try:
        w.write(b"MAIL FROM:<carol@box.test>\r\nRCPT TO:<nobody@server.example>\r\nDATA\r\n")
        print(await reply(r))
    except ConnectionError:
        print("the session is over")


async def main(what, *args):
    if what == "burst":
        answers = await asyncio.gather(*(send(n, int(args[1])) for n in range(int(args[0]))))
        accepted = sum(a.startswith("250") for a in answers)
        refused = [a for a in answers if not a.startswith("250")]
        print(accepted, len(refused))
        for text in sorted(set(refused))[:3]:
            print(text, file=sys.stderr)
    elif what == "refused":
        await refuse(int(args[0]))
    else:
        await asyncio.gather(*(leave(args[0], n) for n in range(int(args[1]))))


asyncio.run(main(*sys.argv[1:]))
