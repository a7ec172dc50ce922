<?php
// PHPMailer with the method that the argument names: isMail or isSendmail.
require __DIR__ . '/message.php';
require 'libphp-phpmailer/autoload.php';

$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->{$argv[1]}();
$mail->CharSet = 'utf-8';
$mail->setFrom("from@$domain", 'Jörg');
$mail->addAddress("to@$domain");
$mail->addCC("cc@$domain");
$mail->addBCC("bcc@$domain");
$mail->Subject = $subject;
$mail->Body = $text;
$mail->addAttachment($file);
try {
    $mail->send();
} catch (Exception $e) {
    exit(get_class($e) . ': ' . $e->getMessage() . "\n");
}
echo "sent\n";
