<?php chdir('/tmp'); mail('x@outside.example', 'from elsewhere', 'x');
