/*
 * Entry by the Linux 64-bit boot protocol (Documentation/arch/x86/boot.rst): long mode, the first GiB identity-mapped, RSI = boot_params.
 * Weak, so that a payload which wants nothing of the runtime can bring its own.
 */
	.section .text.start, "ax"
	.weak	_start
_start:
	lea	boot_stack_top(%rip), %rsp
	mov	%rsi, boot_params(%rip)
	xor	%ebp, %ebp
	call	main
	call	power_off

	.section .bss.stack, "aw", @nobits
	.balign	16
	.skip	16384
boot_stack_top:

	.section .note.GNU-stack, "", @progbits
