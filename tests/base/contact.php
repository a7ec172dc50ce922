<?php
// The contact form of a small site, as there are millions: one visitor, one mail.
// It mails whoever is named in "to", which a real one must never do.

function field(string $name, string $default = ''): string
{
    // A line break in a header field would let a visitor add headers.
    return trim(str_replace(["\r", "\n"], ' ', $_POST[$name] ?? $default));
}

if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $site = $_SERVER['SERVER_NAME'];
    $name = field('name');
    $email = field('email');
    $headers = [
        'From' => "web@$site",
        'Reply-To' => filter_var($email, FILTER_VALIDATE_EMAIL) ? $email : "web@$site",
        'Content-Type' => 'text/plain; charset=utf-8',
    ];
    $sent = mail(
        field('to', 'visitor@outside.example'),
        substr("Message from $name", 0, 78),
        "$name <$email> wrote on $site:\n\n" . ($_POST['message'] ?? '') . "\n",
        $headers
    );
    http_response_code($sent ? 200 : 503);
    header('Content-Type: text/plain; charset=utf-8');
    echo $sent ? "sent\n" : "mail() said false\n";
    exit;
}
?>
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Contact</title>
<h1>Write to us</h1>
<form method="post">
  <p><label>Your name <input name="name" required></label></p>
  <p><label>Your e-mail address <input name="email" type="email" required></label></p>
  <p><label>Your message <textarea name="message" rows="8" required></textarea></label></p>
  <p><button>Send</button></p>
</form>
</html>
