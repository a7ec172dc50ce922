<?php // Mail of a mailbox by PHPMailer, with SMTP AUTH on port 587; prints ok or what the server said.
set_include_path('/usr/share/php');
require 'libphp-phpmailer/autoload.php';
$m = new PHPMailer\PHPMailer\PHPMailer();
$m->isSMTP();
$m->Host = '127.0.0.1';
$m->Port = 587;
$m->SMTPAuth = true;
$m->SMTPAutoTLS = false;
[$m->Username, $m->Password] = [$argv[1] ?? $_GET['as'], 'secret'];
$m->setFrom($m->Username);
$m->addAddress($argv[2] ?? $_GET['to']);
$m->Subject = 'by PHPMailer';
$m->Body = 'x';
echo $m->send() ? "ok\n" : $m->ErrorInfo . "\n";
