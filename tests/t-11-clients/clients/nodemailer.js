// Nodemailer's sendmail transport with its defaults.
const fs = require('fs');
const domain = process.env.DOMAIN;
require('nodemailer').createTransport({ sendmail: true }).sendMail({
  from: { name: 'Jörg', address: `from@${domain}` },
  to: `to@${domain}`,
  cc: `cc@${domain}`,
  bcc: `bcc@${domain}`,
  subject: fs.readFileSync(`${__dirname}/subject`, 'utf8'),
  text: fs.readFileSync(`${__dirname}/text`, 'utf8'),
  attachments: [{ path: '/srv/clients/bytes.bin' }],
}, (err) => {
  console.log(err ? String(err) : 'sent');
});
