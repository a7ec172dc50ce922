#include "textflag.h"

// As in entry_amd64.s.
TEXT sendmail_wrapper_entry(SB),NOSPLIT|NOFRAME,$0
	MOVD $64, R19	// signal
	MOVD ZR, R20	// those ignored: signal n is bit n-1
signal:
	MOVD R19, R0	// rt_sigaction(signal, NULL, &callerAction, 8)
	MOVD ZR, R1
	MOVD $·callerAction(SB), R2
	MOVD $8, R3
	MOVD $134, R8
	SVC
	MOVD ·callerAction(SB), R4
	CMP $1, R4	// SIG_IGN
	CSET EQ, R4
	ORR R20<<1, R4, R20
	SUB $1, R19
	CBNZ R19, signal
	MOVD R20, ·callerIgnored(SB)

	MOVD ZR, R0	// rt_sigprocmask(SIG_BLOCK, NULL, &callerBlocked, 8)
	MOVD ZR, R1
	MOVD $·callerBlocked(SB), R2
	MOVD $8, R3
	MOVD $135, R8
	SVC

	MOVD $3, R19	// descriptor + 1
	MOVD ZR, R20	// those closed: descriptor n is bit n
descriptor:
	SUB $1, R19
	MOVD R19, R0	// fcntl(descriptor, F_GETFD) < 0
	MOVD $1, R1
	MOVD $25, R8
	SVC
	LSR $63, R0
	ORR R20<<1, R0, R20
	CBNZ R19, descriptor
	MOVD R20, ·callerClosed(SB)

	MOVD ZR, R0	// prlimit(0, RLIMIT_NOFILE, NULL, &callerFiles)
	MOVD $7, R1
	MOVD ZR, R2
	MOVD $·callerFiles(SB), R3
	MOVD $261, R8
	SVC

	MOVD ZR, R0	// prlimit(0, RLIMIT_AS, NULL, &callerSpace)
	MOVD $9, R1
	MOVD ZR, R2
	MOVD $·callerSpace(SB), R3
	MOVD $261, R8
	SVC
	MOVD ·callerSpace+8(SB), R4	// its hard limit is the soft one meanwhile
	MOVD ·leastSpace(SB), R5
	CMP R5, R4
	BLO tooLittle
	MOVD R4, ·space+0(SB)
	MOVD R4, ·space+8(SB)
	MOVD ZR, R0	// prlimit(0, RLIMIT_AS, &space, NULL)
	MOVD $·space(SB), R2
	MOVD ZR, R3
	SVC

	MOVD $1, R4
	MOVB R4, ·callerNoted(SB)
	MOVD ZR, R0
	JMP _rt0_arm64_linux(SB)

tooLittle:
	MOVD $2, R0	// write(2, tooLittleSpace)
	MOVD ·tooLittleSpace+0(SB), R1
	MOVD ·tooLittleSpace+8(SB), R2
	MOVD $64, R8
	SVC
	MOVD $71, R0	// exit_group(71)
	MOVD $94, R8
	SVC
