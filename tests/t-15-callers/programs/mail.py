#!/usr/bin/python3
import subprocess
subprocess.run(["/usr/sbin/sendmail", "x@outside.example"], input=b"Subject: Python\n\nx\n", check=True)
