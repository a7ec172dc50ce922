#!/usr/bin/node
require("child_process").execFileSync("/usr/sbin/sendmail", ["x@outside.example"], { input: "Subject: Node\n\nx\n" });
