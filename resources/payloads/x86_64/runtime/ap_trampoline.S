/*
 * void start_cpu(uint8_t apic_id, uint8_t page, void (*function)(void)) of payload.h: the C half is in start_cpu.c.
 * The trampoline goes from real mode to long mode at once: paging and protection are switched on by one write of CR0.
 */
	.section .text.ap_trampoline, "ax"
	.globl	ap_trampoline, ap_trampoline_end
	.code16
ap_trampoline:
	cli
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	ap_gdtr - ap_trampoline
	mov	$0x20, %eax		/* CR4.PAE */
	mov	%eax, %cr4
	mov	ap_cr3 - ap_trampoline, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	/* EFER */
	rdmsr
	or	$0x100, %eax		/* LME */
	wrmsr
	mov	$0x80000011, %eax	/* PG, ET, PE */
	mov	%eax, %cr0
	ljmpl	$0x8, $ap_long_mode

	.balign	8
ap_gdtr:
	.word	ap_gdt_end - ap_gdt - 1
	.long	ap_gdt
	.balign	8
	.globl	ap_cr3
ap_cr3:
	.long	0
ap_trampoline_end:

	.code64
	.section .text.ap_long_mode, "ax"
ap_long_mode:
	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	ap_stack(%rip), %rsp
	call	*ap_function(%rip)
1:	cli
	hlt
	jmp	1b

	.section .rodata.ap_gdt, "a"
	.balign	8
ap_gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* flat 64-bit code */
	.quad	0x00cf93000000ffff	/* flat data */
ap_gdt_end:

	.section .note.GNU-stack, "", @progbits
