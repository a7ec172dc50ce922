<?php
$p = proc_open(['/usr/sbin/sendmail', 'x@outside.example'], [['pipe', 'r']], $pipes);
fwrite($pipes[0], "Subject: proc_open\n\nx\n"); fclose($pipes[0]); proc_close($p);
