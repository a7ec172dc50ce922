# The email package, and sendmail as a pipe: Python has no module for that.
import os
import subprocess
import sys
from email.message import EmailMessage
from email.policy import SMTP

here = os.path.dirname(__file__)
domain = os.environ["DOMAIN"]
message = EmailMessage(policy=SMTP.clone(linesep="\n"))
message["From"] = f"Jörg <from@{domain}>"
message["To"] = f"to@{domain}"
message["Cc"] = f"cc@{domain}"
message["Bcc"] = f"bcc@{domain}"
message["Subject"] = open(f"{here}/subject", encoding="utf-8").read()
message.set_content(open(f"{here}/text", encoding="utf-8").read(), cte="8bit")
message.add_attachment(open("/srv/clients/bytes.bin", "rb").read(), "application", "octet-stream", filename="bytes.bin")
done = subprocess.run(["/usr/sbin/sendmail", "-t", "-oi"], input=message.as_bytes(), stderr=subprocess.PIPE)
print("CompletedProcess", done.returncode, done.stderr.decode().strip())
