<?php require __DIR__ . '/../../lib/mailer.php'; letter('from an included file');
