<?php mail('x@outside.example', 'direct', 'x');
