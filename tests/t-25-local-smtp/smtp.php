<?php // A hacked script that speaks SMTP to the mail server of its own host, without a login.
set_include_path('/usr/share/php');
require 'libphp-phpmailer/autoload.php';
$m = new PHPMailer\PHPMailer\PHPMailer();
$m->isSMTP();
$m->Host = $_GET['host'] ?? '127.0.0.1';
$m->SMTPAutoTLS = false;
$m->setFrom('a@alice.example');
$m->addAddress($_GET['to']);
$m->Subject = 'by SMTP';
$m->Body = 'x';
echo $m->send() ? "ok\n" : $m->ErrorInfo . "\n";
