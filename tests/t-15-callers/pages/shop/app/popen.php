<?php $p = popen('/usr/sbin/sendmail x@outside.example', 'w'); fwrite($p, "Subject: popen\n\nx\n"); pclose($p);
