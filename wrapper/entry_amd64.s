#include "textflag.h"

// The first instructions of the program, where it is linked with
// -E sendmail_wrapper_entry: see inherited.go. Nothing but the kernel's
// registers and stack is there yet; both are left as they are for the runtime.
TEXT sendmail_wrapper_entry(SB),NOSPLIT|NOFRAME,$0
	MOVQ $64, R12	// signal
	XORL R13, R13	// those ignored: signal n is bit n-1
signal:
	MOVQ $13, AX	// rt_sigaction(signal, NULL, &callerAction, 8)
	MOVQ R12, DI
	XORL SI, SI
	LEAQ ·callerAction(SB), DX
	MOVQ $8, R10
	SYSCALL
	XORL AX, AX
	CMPQ ·callerAction(SB), $1	// SIG_IGN
	SETEQ AX
	SHLQ $1, R13
	ORQ AX, R13
	DECQ R12
	JNZ signal
	MOVQ R13, ·callerIgnored(SB)

	MOVQ $14, AX	// rt_sigprocmask(SIG_BLOCK, NULL, &callerBlocked, 8)
	XORL DI, DI
	XORL SI, SI
	LEAQ ·callerBlocked(SB), DX
	MOVQ $8, R10
	SYSCALL

	MOVQ $2, R12	// descriptor
	XORL R13, R13	// those closed: descriptor n is bit n
descriptor:
	MOVQ $72, AX	// fcntl(descriptor, F_GETFD) < 0
	MOVQ R12, DI
	MOVQ $1, SI
	SYSCALL
	SHRQ $63, AX
	SHLQ $1, R13
	ORQ AX, R13
	DECQ R12
	JGE descriptor
	MOVQ R13, ·callerClosed(SB)

	MOVQ $302, AX	// prlimit(0, RLIMIT_NOFILE, NULL, &callerFiles)
	XORL DI, DI
	MOVQ $7, SI
	XORL DX, DX
	LEAQ ·callerFiles(SB), R10
	SYSCALL

	MOVQ $302, AX	// prlimit(0, RLIMIT_AS, NULL, &callerSpace)
	XORL DI, DI
	MOVQ $9, SI
	XORL DX, DX
	LEAQ ·callerSpace(SB), R10
	SYSCALL
	MOVQ ·callerSpace+8(SB), AX	// its hard limit is the soft one meanwhile
	CMPQ AX, ·leastSpace(SB)
	JCS tooLittle
	MOVQ AX, ·space+0(SB)
	MOVQ AX, ·space+8(SB)
	MOVQ $302, AX	// prlimit(0, RLIMIT_AS, &space, NULL)
	LEAQ ·space(SB), DX
	XORL R10, R10
	SYSCALL

	MOVB $1, ·callerNoted(SB)
	XORL DX, DX	// the kernel's: no function to call at exit
	JMP _rt0_amd64_linux(SB)

tooLittle:
	MOVQ $1, AX	// write(2, tooLittleSpace)
	MOVQ $2, DI
	MOVQ ·tooLittleSpace+0(SB), SI
	MOVQ ·tooLittleSpace+8(SB), DX
	SYSCALL
	MOVQ $231, AX	// exit_group(71)
	MOVQ $71, DI
	SYSCALL
