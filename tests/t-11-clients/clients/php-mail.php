<?php
// mail() with a message put together by hand, as thousands of scripts do.
require __DIR__ . '/message.php';

$sent = mail(
    "to@$domain",
    mb_encode_mimeheader($subject, 'UTF-8', 'B'),
    "--=_part\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n$text\r\n"
    . "--=_part\r\nContent-Type: application/octet-stream; name=bytes.bin\r\nContent-Transfer-Encoding: base64\r\n"
    . "Content-Disposition: attachment; filename=bytes.bin\r\n\r\n" . chunk_split(base64_encode(file_get_contents($file)))
    . "--=_part--\r\n",
    [
        'From' => "from@$domain",
        'Cc' => "cc@$domain",
        'Bcc' => "bcc@$domain",
        'MIME-Version' => '1.0',
        'Content-Type' => 'multipart/mixed; boundary="=_part"',
    ],
);
echo 'mail() said ', var_export($sent, true), "\n";
